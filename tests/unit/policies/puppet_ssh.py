"""A worker that carries orders over SSH out by appending what a real one would: no machine needed.

What it says next follows from the host's state alone.
"""

from __future__ import annotations

from collections.abc import Collection

from commands.state.host import HostState
from commands.state.host_ssh import SshOrder
from commands.state.ssh_work import STEPS
from events.types import host_ssh as e
from events.types.base import Event
from events.types.host_ssh import SshTask

FAILS_AT = "join"
SSH = "ssh"
"""What makes a worker fail, among the kinds of jobs that hosts fail at."""
KINDS = frozenset({"host.install", "host.uninstall"})
"""The sagas that wait for such a worker, and for no host's agent."""


def next_of(host: HostState, failing: Collection[str]) -> Event | None:
    """Return what the worker appends next, None where nothing is ordered."""
    order = host.ssh.order
    if order is None:
        return None
    if not order.worker:
        return e.HostSshBegun(order=order.order, worker="puppet")
    return _undone(host, order) if order.undoing else _done(host, order, failing)


def _done(host: HostState, order: SshOrder, failing: Collection[str]) -> Event:
    left = [step for step in STEPS[order.task] if step not in order.done]
    step = left[0] if left else ""
    if order.cancel_requested and left:
        return e.HostSshUndoStarted(
            name=host.name, order=order.order, step=step, reason="cancelled", cancelled=True
        )
    if not left:
        return _ended(host, order, succeeded=True)
    if order.running != step:
        return _step(host, order, step, done=False)
    if SSH in failing and step == FAILS_AT and order.task is SshTask.INSTALL:
        return e.HostSshUndoStarted(
            name=host.name, order=order.order, step=step, reason="It would not."
        )
    return _step(host, order, step, done=True)


def _undone(host: HostState, order: SshOrder) -> Event:
    left = [step for step in order.done if step not in order.undone]
    if not left:
        return _ended(host, order, succeeded=False)
    return e.HostSshStep(
        name=host.name, order=order.order, step=left[-1], text="Undone.", done=True, undo=True
    )


def _step(host: HostState, order: SshOrder, step: str, *, done: bool) -> Event:
    return e.HostSshStep(
        name=host.name, order=order.order, step=step, text=f"It did {step}.", done=done
    )


def _ended(host: HostState, order: SshOrder, *, succeeded: bool) -> Event:
    return e.HostSshEnded(
        name=host.name,
        order=order.order,
        task=order.task,
        succeeded=succeeded,
        reason=order.failure,
        cancelled=order.cancel_requested and not succeeded,
    )
