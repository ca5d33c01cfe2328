"""What a host's state knows of work on its machine over SSH."""

from __future__ import annotations

import msgspec

from events.envelope import Recorded
from events.types import host_ssh as e
from events.types.cluster_requirements import FirewallType
from events.types.host_ssh import SshTask


class SshAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How the machine is reached; its key is pinned once `fingerprint` is set."""

    address: str
    port: int = e.PORT
    user: str = e.USER
    fingerprint: str = ""
    key_type: str = ""


class SshOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order that has not ended.

    `fresh`: the host had not joined when it was ordered, so that without success it has not again.
    `worker` carries it out since `begun`, a position; `done` are its steps, and `undone` those that
    were taken back after `failure`. `unfinished` is a step that had begun and was not done then:
    another than the one that failed, where a former worker died in it.
    """

    order: str
    task: SshTask
    password: str | None = None
    fingerprint: str = ""
    firewall: bool = True
    firewall_type: FirewallType = FirewallType.AUTO
    fresh: bool = False
    worker: str = ""
    begun: int = 0
    running: str = ""
    unfinished: str = ""
    done: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()
    texts: dict[str, str] = {}
    cancel_requested: bool = False
    undoing: bool = False
    failed_step: str = ""
    failure: str = ""


class SshOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the newest order that ended did; `work` is the order as it was at its end."""

    work: SshOrder
    succeeded: bool
    cancelled: bool = False
    reason: str = ""
    left: str = ""


class SshState(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `installed`: the agent was put there by us, and not taken away since.

    `restarted` is the newest order by which the agent was restarted with success.
    """

    access: SshAccess | None = None
    order: SshOrder | None = None
    last: SshOutcome | None = None
    installed: bool = False
    restarted: str = ""

    @property
    def installing(self) -> bool:
        """Whether the agent is being put there, or taken away."""
        return self.order is not None and self.order.task is not SshTask.RESTART_AGENT

    @property
    def install_failed(self) -> bool:
        """Whether the newest order was to install, and did not succeed."""
        last = self.last
        return last is not None and last.work.task is SshTask.INSTALL and not last.succeeded


def evolve(state: SshState, recorded: Recorded, *, joined: bool) -> SshState | None:
    """Return what follows from an event, None if it is about something else.

    `joined`: whether the host has an identity.
    """
    event = recorded.event
    if isinstance(event, e.HostSshOrdered):
        return _ordered(state, event, fresh=not joined)
    order = state.order
    if order is None or getattr(event, "order", None) != order.order:
        return None
    match event:
        case e.HostSshBegun():
            taken = {"worker": event.worker, "begun": recorded.position}
            return _with_order(state, order, **taken)
        case e.HostSshKeyPinned() if state.access is not None:
            access = msgspec.structs.replace(
                state.access, fingerprint=event.fingerprint, key_type=event.key_type
            )
            return msgspec.structs.replace(state, access=access)
        case e.HostSshStep():
            return _stepped(state, order, event)
        case e.HostSshCancelRequested():
            return _with_order(state, order, cancel_requested=True)
        case e.HostSshUndoStarted():
            failure = {"failed_step": event.step, "failure": event.reason}
            failure["unfinished"] = order.running or order.unfinished
            return _with_order(state, order, undoing=True, running="", **failure)
        case e.HostSshEnded():
            return _ended(state, order, event)
        case _:
            return None


def forgotten(state: SshState) -> SshState:
    """Return the state of a host that has its place by other means: what failed is past."""
    return state if state.order is not None else msgspec.structs.replace(state, last=None)


def restored(state: SshState) -> SshState:
    """Return the state after the log was restored: what was under way then is nobody's now."""
    order = state.order
    if order is None or order.task is SshTask.RESTART_AGENT:
        return msgspec.structs.replace(state, order=None)
    work = msgspec.structs.replace(order, password=None)
    outcome = SshOutcome(work=work, succeeded=False, reason=e.RESTORED)
    return msgspec.structs.replace(state, order=None, last=outcome)


def _ordered(state: SshState, event: e.HostSshOrdered, *, fresh: bool) -> SshState:
    access, before = state.access, state.access
    if event.address:
        access = SshAccess(address=event.address, port=event.port, user=event.user)
        same = before is not None and before.address == event.address
        # What answered at an address that was mistyped says nothing of the machine.
        if before is not None and (same or not fresh):
            access = msgspec.structs.replace(
                access, fingerprint=before.fingerprint, key_type=before.key_type
            )
    order = SshOrder(
        order=event.order,
        task=event.task,
        password=event.password,
        fingerprint=event.fingerprint,
        firewall=event.firewall,
        firewall_type=event.firewall_type,
        fresh=fresh,
    )
    return msgspec.structs.replace(state, access=access, order=order)


def _stepped(state: SshState, order: SshOrder, event: e.HostSshStep) -> SshState:
    texts = order.texts | {event.step: event.text}
    if not event.done:
        return _with_order(state, order, running=event.step, texts=texts)
    steps = "undone" if event.undo else "done"
    before: tuple[str, ...] = getattr(order, steps)
    after = before if event.step in before else (*before, event.step)
    return _with_order(state, order, running="", texts=texts, **{steps: after})


def _ended(state: SshState, order: SshOrder, event: e.HostSshEnded) -> SshState:
    outcome = SshOutcome(
        work=msgspec.structs.replace(order, password=None),
        succeeded=event.succeeded,
        cancelled=event.cancelled,
        reason=event.reason,
        left=event.left,
    )
    if event.task is SshTask.RESTART_AGENT:
        # What is said of the last installation stays true.
        restarted = order.order if event.succeeded else state.restarted
        return msgspec.structs.replace(state, order=None, restarted=restarted)
    installed = state.installed
    if event.succeeded:
        installed = event.task is SshTask.INSTALL
    return msgspec.structs.replace(state, order=None, last=outcome, installed=installed)


def _with_order(state: SshState, order: SshOrder, **changes: object) -> SshState:
    return msgspec.structs.replace(state, order=msgspec.structs.replace(order, **changes))
