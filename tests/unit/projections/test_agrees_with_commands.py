"""The inventory says what the decisions see: both fold the same events, each for itself."""

from collections.abc import Callable

import pytest

from commands.state.host import HOST, HostState, HostStatus
from commands.state.vm import VM, VmState, VmStatus
from events.types import host as host_events
from events.types import host_power as power
from events.types import host_ssh as ssh
from events.types import vm as e
from events.types.base import Event
from events.types.host_boot import HostBootOverdue
from events.types.host_failing import HostFailing, HostRecovered
from events.types.host_fitness import HostFitnessFound, Unfit, UnfitKind
from events.types.host_maintenance import HostEvacuationBegun
from events.types.vm_jobs import VmDisksFailed
from events.types.vm_power import (
    VmRebooted,
    VmRebootRequested,
    VmShutdownFailed,
    VmShutdownRequested,
    VmStopRequested,
    VmSuspended,
    VmSuspendRequested,
)
from projections.views.host_document import HostDocument
from projections.views.host_document import HostStatus as ShownHostStatus
from projections.views.inventory import Inventory
from projections.views.vm_document import VmDocument
from projections.views.vm_document import VmStatus as ShownVmStatus
from tests.unit.projections.history import History, busy_history

UNFIT = (Unfit(kind=UnfitKind.MEMORY, reason="It is small."),)


def _about_vm(history: History, host: str, incarnation: int) -> Event:
    """Anything that may be told of a VM and its run."""
    name, host_name = "web01", "host1"
    makers: list[Callable[[], Event]] = [
        lambda: e.VmStartAbandoned(name=name, reason="none"),
        lambda: e.VmStarted(
            name=name,
            host=host,
            host_name=host_name,
            incarnation=incarnation,
            restored=history.random.random() < 0.3,
        ),
        lambda: e.VmUp(name=name, host=host, host_name=host_name, incarnation=incarnation),
        lambda: e.VmPaused(name=name, incarnation=incarnation, reason=e.PauseReason.IO_ERROR),
        lambda: e.VmContinued(name=name, incarnation=incarnation),
        lambda: VmShutdownRequested(name=name, incarnation=incarnation),
        lambda: VmShutdownFailed(name=name, incarnation=incarnation, reason="none"),
        lambda: VmStopRequested(name=name, incarnation=incarnation, host=host),
        lambda: VmRebootRequested(name=name, incarnation=incarnation),
        lambda: VmRebooted(name=name, incarnation=incarnation),
        lambda: VmSuspendRequested(name=name, incarnation=incarnation),
        lambda: VmSuspended(
            name=name,
            host=host,
            host_name=host_name,
            incarnation=incarnation,
            saved_memory="m",
        ),
        lambda: e.VmDown(
            name=name,
            host=host,
            host_name=host_name,
            incarnation=incarnation,
            reason=e.DownReason.GUEST,
            restored=history.random.random() < 0.3,
        ),
        lambda: VmDisksFailed(name=name, reason="none"),
        lambda: e.VmRemoveRequested(name=name, data_center="d"),
    ]
    return history.random.choice(makers)()


def _about_ssh(history: History) -> Event:
    """Anything that may be told of work on a host over SSH."""
    name, task = "h", history.random.choice(list(ssh.SshTask))
    order = f"{task} {history.random.choice('12')}"
    address = history.random.choice(["", "192.0.2.1", "192.0.2.2"])
    kinds: tuple[Callable[[], Event], ...] = (
        lambda: ssh.HostSshOrdered(name=name, order=order, task=task, address=address),
        lambda: ssh.HostSshKeyPinned(name=name, order=order, fingerprint="SHA256:x", key_type="e"),
        lambda: ssh.HostSshStep(name=name, order=order, step="join", text="It joined.", done=True),
        lambda: ssh.HostSshEnded(
            name=name,
            order=order,
            task=task,
            succeeded=history.random.random() < 0.5,
            reason="It would not.",
        ),
    )
    return history.random.choice(kinds)()


def _about_host(history: History) -> Event:
    """Anything that may be told of a host."""
    if history.random.random() < 0.3:
        return _about_ssh(history)
    events: list[Event] = [
        host_events.HostSilent(name="h", last_contact=history.time, timeout_s=1),
        host_events.HostSessionStarted(name="h", session="s", boot="b", protocol=1),
        host_events.HostMaintenanceRequested(name="h"),
        host_events.HostMaintenanceEntered(name="h"),
        host_events.HostActivated(name="h"),
        host_events.HostDuplicateRefused(name="h", boots=("a",)),
        host_events.HostApproved(name="h"),
        host_events.HostStateUnconfirmed(name="h", incarnations_from=1_000),
        host_events.HostStateConfirmed(name="h", reported=True),
        host_events.HostConfirmedOff(name="h"),
        HostFitnessFound(name="h", cluster_name="c", reasons=UNFIT),
        HostFitnessFound(name="h", cluster_name="c"),
        HostEvacuationBegun(name="h", vms=3),
        HostFailing(name="h", vms=("1", "2", "3"), told="a, b, c"),
        HostRecovered(name="h"),
        power.HostFencedOff(name="h", order="o", proxy_name="p", agents=("bmc",)),
        power.HostFencedOn(name="h", order="o", proxy_name="p"),
        power.HostKdumpStarted(name="h", address="192.0.2.1"),
        power.HostKdumpEnded(name="h"),
        HostBootOverdue(name="h", turned_on_at=history.time, timeout_s=600),
    ]
    return history.random.choice(events)


class Both:
    """Both folds of a history, compared after each event."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.inventory = Inventory()
        self.vms: dict[str, VmState | None] = {}
        self.hosts: dict[str, HostState | None] = {}
        self._seen = 0

    def catch_up(self) -> None:
        for recorded in self.history.recorded(self._seen):
            self.inventory.apply(recorded)
            object_id = recorded.object_id
            if recorded.kind == "vm":
                self.vms[object_id] = VM.evolve(self.vms.get(object_id), recorded)
            elif recorded.kind == "host":
                self.hosts[object_id] = HOST.evolve(self.hosts.get(object_id), recorded)
            self._compare()
        self._seen = len(self.history.events)

    def _compare(self) -> None:
        for object_id, host in self.hosts.items():
            if host is not None:
                _compare_host(host, self.inventory.hosts.get(object_id))
        for object_id, vm in self.vms.items():
            if vm is not None:
                _compare_vm(vm, self.inventory.vms.get(object_id), self.hosts)


def _compare_host(state: HostState, shown: HostDocument | None) -> None:
    assert (shown is None) is (state.status is HostStatus.REMOVED)
    if shown is not None:
        assert str(shown.status) == str(state.status)


def _compare_vm(
    state: VmState, shown: VmDocument | None, hosts: dict[str, HostState | None]
) -> None:
    assert (shown is None) is (state.status is VmStatus.REMOVED)
    if shown is None:
        return
    assert str(shown.last_known_status) == str(state.status)
    assert shown.configuration_version == state.configuration_version
    assert [host.id for host in shown.may_run_on] == list(state.may_run_on)
    assert (shown.host.id if shown.host else None) == (state.run.host if state.run else None)
    assert shown.pause_reason == state.pause_reason
    where = [hosts.get(name) for name in state.may_run_on]
    silent = any(host is not None and host.mute for host in where)
    assert (shown.status is ShownVmStatus.UNKNOWN) is silent


@pytest.mark.parametrize("seed", range(6))
def test_statuses_are_the_same_after_each_event(seed: int) -> None:
    history = busy_history(6, 200, hosts=3, seed=seed)
    both = Both(history)
    both.catch_up()
    for _ in range(600):
        vm_id = history.random.choice(sorted(both.vms))
        state = both.vms[vm_id]
        assert state is not None
        if state.run is not None:
            event = _about_vm(history, state.run.host, state.run.incarnation)
            history.add(f"vm/{vm_id}", event)
        elif not state.may_run_on and state.status is not VmStatus.REMOVED:
            history.add(f"vm/{vm_id}", e.VmStartRequested(name="web01"))
            host_id = history.random.choice(sorted(both.hosts))
            history.placed(vm_id, host_id, incarnation=state.incarnation + 1)
        if history.random.random() < 0.2:
            history.add(f"host/{history.random.choice(sorted(both.hosts))}", _about_host(history))
        both.catch_up()


def test_the_words_for_statuses_are_the_same() -> None:
    assert {str(s) for s in VmStatus} - {"removed"} == {str(s) for s in ShownVmStatus}
    assert {str(s) for s in HostStatus} - {"removed"} == {str(s) for s in ShownHostStatus}
