"""Installing and uninstalling a host over SSH: shows what the worker makes of the order.

The order is part of the command's append, and a worker of an engine carries it out: it appends each
step to the host's stream, tests what is there before it does anything, and takes back what it did
where it cannot go on. These sagas tell the operation of it, and the worker of a cancellation.
"""

from __future__ import annotations

from commands.policies.saga import Saga, Scene, Step
from commands.state.host import HOST
from commands.state.host_ssh import SshOrder, SshOutcome
from commands.state.operation import StepState
from events.envelope import NewEvent
from events.types import operation as e
from events.types.base import Event
from events.types.host_ssh import HostSshCancelRequested
from events.types.operation import Outcome

CANCELLED = "The installation was cancelled."


def _step(name: str, does: str, undo: str, *, cancellable: bool = True) -> Step:
    return Step(name=name, does=does, undo=undo, cancellable=cancellable)


INSTALL_STEPS = (
    _step("connect", "log in, after comparing the machine's SSH key", "none: nothing was changed"),
    _step("inspect", "see what system it is", "none: nothing was changed"),
    _step("packages", "install what is missing", "remove what was installed"),
    _step("libvirt", "see that it runs and listens on no network", "put its sockets back"),
    _step("bundle", "fetch the agent, compared by its SHA-256", "remove it, or put the old back"),
    _step("authorize", "let the engine's SSH key in", "take it out again"),
    _step("join", "let the machine join with a token", "remove its key and certificate"),
    _step("firewall", "open the migration port", "close it again"),
    _step("start", "start the agent, now and at boot", "stop it"),
    _step("answer", "wait until the agent is heard", "none: nothing was changed"),
)
UNINSTALL_STEPS = (
    _step("connect", "log in", "none", cancellable=False),
    _step("inspect", "see what system it is", "none", cancellable=False),
    _step("stop", "stop the agent", "none", cancellable=False),
    _step("firewall", "close the migration port", "none", cancellable=False),
    _step("files", "remove the agent, its key and its certificate", "none", cancellable=False),
    _step("authorize", "take the engine's SSH key out", "none", cancellable=False),
)


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Tell the operation what was done since; tell the worker that it is to stop."""
    host = scene.world.get(HOST, scene.operation.target_id)
    assert host is not None  # noqa: S101 - an operation is begun on what exists
    order, last = host.ssh.order, host.ssh.last
    if order is not None and order.order == scene.operation.id:
        stop: tuple[NewEvent, ...] = ()
        if scene.operation.cancel_requested and not order.cancel_requested:
            stop = scene.target(HostSshCancelRequested(order=order.order))
        return (*stop, *_shown(scene, order))
    if last is not None and last.work.order == scene.operation.id:
        return (*_shown(scene, last.work), *_over(scene, last))
    return scene.ended(Outcome.FAILED, "Another order took its place.")


def _shown(scene: Scene, order: SshOrder) -> tuple[NewEvent, ...]:
    """Return what the operation does not show yet."""
    found: list[Event] = []
    for step in scene.operation.steps:
        text = order.texts.get(step, "")
        if step in order.undone:
            if not scene.is_(step, StepState.UNDONE):
                found.append(e.OperationUndoDone(step=step, input=scene.input))
        elif step == order.failed_step and not order.cancel_requested:
            if not scene.is_(step, StepState.REFUSED, StepState.UNDOING):
                found.append(scene.refused(step, order.failure))
        elif step in order.done:
            if not scene.is_(step, StepState.DONE, StepState.UNDOING):
                found.append(scene.done(step, text))
        elif step == order.running and not scene.is_(step, StepState.RUNNING):
            found.append(scene.started(step))
    return scene.own(*found)


def _over(scene: Scene, last: SshOutcome) -> tuple[NewEvent, ...]:
    if last.succeeded:
        return scene.ended(Outcome.SUCCEEDED)
    if last.cancelled:
        return scene.ended(Outcome.CANCELLED, f"{CANCELLED} {last.left}".strip())
    return scene.ended(Outcome.FAILED, f"{last.reason} {last.left}".strip())


SAGAS = (
    Saga(kind="host.install", steps=INSTALL_STEPS, advance=advance),
    Saga(kind="host.uninstall", steps=UNINSTALL_STEPS, advance=advance),
)
