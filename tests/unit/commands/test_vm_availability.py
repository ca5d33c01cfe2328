"""What is asked of starting VMs by themselves, and how the end of a run bears on it."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from commands.kernel.refusal import WrongState
from commands.kernel.testing import NOW
from commands.state.vm import VM, VmStatus
from commands.state.vm_availability import Availability
from commands.vm.choose_hosts import ChooseHosts
from commands.vm.create import CreateVm
from commands.vm.high_availability import SetHighAvailability
from commands.vm.migration import SetVmMigration
from commands.vm.start_with_host import SetStartWithHost
from events.types import vm as v
from events.types.affinity import Member
from events.types.base import Event, Severity
from events.types.host import HostCapabilitiesReported
from events.types.migration import MigrationMode, VmMigrationSettings
from events.types.migration_settings import VmMigrationSet
from events.types.vm import DownReason
from events.types.vm_availability import (
    RestartCause,
    VmHighAvailabilityChanged,
    VmRestartDecided,
    VmStartWithHostChanged,
)
from events.types.vm_hosts import VmHostsChosen
from events.types.vm_migration import VmMigrationDeparted
from events.types.vm_power import (
    VmShutdownFailed,
    VmShutdownRequested,
    VmStopRequested,
    VmSuspendRequested,
)
from tests.unit.commands.samples import CLUSTER, HOST_ID, VM_ID, place, vm
from tests.unit.policies.stage import CAPABILITIES

AVAILABLE = VmHighAvailabilityChanged(name="web01", enabled=True, priority=50)


def down(reason: DownReason) -> v.VmDown:
    return v.VmDown(name="web01", host=HOST_ID, host_name="kvm01", incarnation=1, reason=reason)


def availability(status: VmStatus, *events: Event) -> Availability:
    state = vm(status, *events).state(VM, VM_ID)
    assert state is not None
    return state.availability


def test_high_availability_is_set_changed_and_ended() -> None:
    vm().when(SetHighAvailability(id=VM_ID)).then(
        VmHighAvailabilityChanged(name="web01", enabled=True, priority=1)
    )
    on = vm(VmStatus.UP, AVAILABLE)
    on.when(SetHighAvailability(id=VM_ID)).then_nothing()
    on.when(SetHighAvailability(id=VM_ID, priority=100)).then(
        VmHighAvailabilityChanged(name="web01", enabled=True, priority=100)
    )
    on.when(SetHighAvailability(id=VM_ID, enabled=False)).then(
        VmHighAvailabilityChanged(name="web01", enabled=False, priority=50)
    )
    removing = vm(VmStatus.REMOVING)
    removing.when(SetHighAvailability(id=VM_ID)).refused(WrongState, "web01")
    removing.when(SetStartWithHost(id=VM_ID)).refused(WrongState, "web01")


def test_starting_with_the_host_is_set_changed_and_ended() -> None:
    vm().when(SetStartWithHost(id=VM_ID, delay_s=30.0)).then(
        VmStartWithHostChanged(name="web01", enabled=True, priority=1, delay_s=30.0)
    )
    changed = VmStartWithHostChanged(name="web01", enabled=True, priority=7, delay_s=30.0)
    on = vm(VmStatus.UP, changed)
    on.when(SetStartWithHost(id=VM_ID, priority=7)).then_nothing()
    on.when(SetStartWithHost(id=VM_ID, enabled=False)).then(
        VmStartWithHostChanged(name="web01", enabled=False, priority=7, delay_s=30.0)
    )


def test_a_vm_is_created_with_both() -> None:
    command = CreateVm.declaration.cls
    body = {
        "name": "web01",
        "cluster": CLUSTER,
        "high_availability": {"priority": 50},
        "start_with_host": {"delay_s": 5},
    }
    made = place().when(msgspec.convert(body, command, strict=False))
    assert made.event(VmHighAvailabilityChanged) == AVAILABLE
    assert made.event(VmStartWithHostChanged).delay_s == 5
    plain = place().when(CreateVm(name="web01", cluster=CLUSTER))
    assert [type(event) for event in plain.events] == [v.VmCreated]


def test_what_nobody_may_migrate_is_not_highly_available() -> None:
    nobody = VmMigrationSettings(mode=MigrationMode.NONE)
    fixed = vm(VmStatus.UP, VmMigrationSet(name="web01", migration=nobody))
    fixed.when(SetHighAvailability(id=VM_ID)).refused(WrongState, "migration mode none")
    assert fixed.when(SetHighAvailability(id=VM_ID, enabled=False)).events == ()
    on = vm(VmStatus.UP, AVAILABLE)
    on.when(SetVmMigration(id=VM_ID, mode=MigrationMode.NONE)).refused(WrongState, "mode none")
    assert on.when(SetVmMigration(id=VM_ID, mode=MigrationMode.MANUAL)).events

    def made(mode: str, *, enabled: bool = True) -> CreateVm:
        settings = {"high_availability": {"enabled": enabled}, "migration": {"mode": mode}}
        return msgspec.convert({"name": "web01", "cluster": CLUSTER, **settings}, CreateVm)

    place().when(made("none")).refused(WrongState, "migration mode none")
    assert place().when(made("manual")).events
    assert place().when(made("none", enabled=False)).events
    # of a log from before, what has both keeps both, and may have other hosts chosen for it
    both = fixed.and_then((f"vm/{VM_ID}", AVAILABLE))
    assert both.when(SetHighAvailability(id=VM_ID, enabled=False)).events
    both.when(ChooseHosts(id=VM_ID)).then_nothing()


def test_what_could_run_on_one_host_only_is_not_highly_available() -> None:
    one, two = Member(id=HOST_ID, name="kvm01"), Member(id="h2", name="kvm02")
    pinned = VmHostsChosen(name="web01", hosts=(one,), pinned=True)
    vm(VmStatus.UP, pinned).when(SetHighAvailability(id=VM_ID)).refused(WrongState, "kvm01")
    vm(VmStatus.UP, AVAILABLE, pinned).when(SetHighAvailability(id=VM_ID, enabled=False)).then(
        VmHighAvailabilityChanged(name="web01", enabled=False, priority=50)
    )
    for other in (
        VmHostsChosen(name="web01", hosts=(one, two), pinned=True),
        VmHostsChosen(name="web01", hosts=(one,), pinned=False),
    ):
        assert vm(VmStatus.UP, other).when(SetHighAvailability(id=VM_ID)).events
    vm(VmStatus.UP, AVAILABLE).when(ChooseHosts(id=VM_ID, hosts=(HOST_ID,), pinned=True)).refused(
        WrongState, "highly available"
    )
    assert vm(VmStatus.UP, AVAILABLE).when(ChooseHosts(id=VM_ID, hosts=(HOST_ID,))).events


def test_the_event_warns_of_files_that_lie_on_one_host_alone() -> None:
    for folder, warned in (("", "kvm01"), ("one-folder", "")):
        reported = HostCapabilitiesReported(
            capabilities=msgspec.structs.replace(CAPABILITIES, storage_id=folder)
        )
        history = vm(VmStatus.UP).and_then((f"host/{HOST_ID}", reported))
        changed = history.when(SetHighAvailability(id=VM_ID)).event(VmHighAvailabilityChanged)
        assert changed.tied_to == warned
        audit = changed.audit()
        assert audit is not None
        assert (audit.severity is Severity.WARNING) is bool(warned)


STOP = VmStopRequested(name="web01", host=HOST_ID, incarnation=1)
SHUTDOWN = VmShutdownRequested(name="web01", incarnation=1)


@pytest.mark.parametrize("reason", list(DownReason))
def test_only_an_end_that_nobody_wanted_is_a_fall(reason: DownReason) -> None:
    found = availability(VmStatus.UP, down(reason))
    fell = reason in {DownReason.CRASHED, DownReason.HOST_SHUTDOWN, DownReason.HOST_LOST}
    assert bool(found.fell) is fell
    assert found.stopped is (reason is DownReason.ADMIN)
    if fell:
        assert (found.reason, found.fell, found.fell_at) == (reason, found.ended, NOW_BEFORE)


NOW_BEFORE = NOW - dt.timedelta(minutes=1)


@pytest.mark.parametrize(
    "asked", [(STOP,), (SHUTDOWN,), (VmSuspendRequested(name="web01", incarnation=1),)]
)
@pytest.mark.parametrize("reason", [DownReason.CRASHED, DownReason.HOST_LOST, DownReason.GUEST])
def test_a_requested_stop_wins_however_the_run_ends(
    asked: tuple[Event, ...], reason: DownReason
) -> None:
    found = availability(VmStatus.UP, *asked, down(reason))
    assert found.stopped
    assert not found.fell


def test_a_shutdown_that_the_guest_did_not_follow_is_no_stop() -> None:
    kept = VmShutdownFailed(name="web01", incarnation=1, reason="ignored")
    assert availability(VmStatus.UP, SHUTDOWN, kept, down(DownReason.HOST_LOST)).fell


def test_a_start_called_off_is_a_stop_even_where_its_host_dies() -> None:
    withdrawn = v.VmStartWithdrawn(
        name="web01",
        host=HOST_ID,
        host_name="kvm01",
        incarnation=1,
        reason="cancelled",
        cancelled=True,
    )
    lost = down(DownReason.HOST_LOST)
    found = availability(VmStatus.POWERING_UP, withdrawn, lost)
    assert found.stopped
    assert not found.fell
    late = v.VmStartWithdrawn(
        name="web01", host=HOST_ID, host_name="kvm01", incarnation=1, reason="too late"
    )
    assert availability(VmStatus.POWERING_UP, late, lost).fell
    called_off = v.VmStartAbandoned(name="web01", reason="cancelled", cancelled=True)
    again = v.VmStartRequested(name="web01")
    fallen = (down(DownReason.CRASHED), again)
    assert not availability(VmStatus.UP, *fallen, called_off).fell
    failed = v.VmStartAbandoned(name="web01", reason="no host")
    kept = availability(VmStatus.UP, *fallen, failed)
    assert kept.fell > kept.ended
    assert not availability(VmStatus.UP, *fallen, called_off, again).stopped


def test_what_lies_there_is_not_started_because_it_becomes_highly_available() -> None:
    assert not availability(VmStatus.UP, down(DownReason.CRASHED), AVAILABLE).fell
    off = VmHighAvailabilityChanged(name="web01", enabled=False, priority=50)
    assert availability(VmStatus.UP, AVAILABLE, down(DownReason.CRASHED)).fell
    assert not availability(VmStatus.UP, AVAILABLE, off, down(DownReason.CRASHED), AVAILABLE).fell


def test_it_is_known_where_it_ran_and_whether_it_came_up() -> None:
    running = availability(VmStatus.UP)
    assert (running.host, running.up_at) == (HOST_ID, NOW_BEFORE)
    moved = VmMigrationDeparted(
        name="web01",
        incarnation=1,
        host=HOST_ID,
        destination="h2",
        destination_name="kvm02",
        reason=DownReason.MIGRATED,
    )
    assert availability(VmStatus.MIGRATING, moved).host == "h2"
    decided = VmRestartDecided(
        name="web01", cause=RestartCause.HIGH_AVAILABILITY, attempt=3, not_before=NOW
    )
    assert availability(VmStatus.UP, decided).attempts == 3
