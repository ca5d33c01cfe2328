"""What the verbs of VMs decide."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET

from commands.kernel.refusal import InvalidField, NotFound, PreconditionFailed
from commands.kernel.testing import COMMAND, fresh
from commands.state.hardware import BootInput, Processors
from commands.state.host import HostStatus
from commands.state.vm import VM, VmStatus
from commands.vm.create import CreateVm, DiskInput, NicInput
from commands.vm.reboot import RebootVm
from commands.vm.remove import DeleteProtected, RemoveVm
from commands.vm.resume import ResumeVm
from commands.vm.shutdown import ShutDownVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from commands.vm.suspend import SuspendVm
from commands.vm.update import UpdateVm
from events.types import vm as v
from events.types.job import JobKind
from events.types.operation import OperationCancelRequested, OperationStarted
from events.types.run_spec import Boot, DiskBus, Topology
from events.types.vm_jobs import VmJobOrdered, VmJobWithdrawn
from events.types.vm_power import VmMemoryDiscarded, VmStopRequested
from tests.unit.commands.samples import (
    ADDED,
    CLUSTER,
    CONFIGURATION,
    CREATED,
    DATA_CENTER,
    DISK,
    HOST_ID,
    MIB,
    NOBODY,
    OTHER_CLUSTER,
    STARTING,
    SUSPENDED,
    VM_ID,
    WANTED,
    host,
    place,
    vm,
)


def test_a_vm_without_disks_is_there_at_once() -> None:
    decision = place().when(CreateVm(name="web01", cluster=CLUSTER)).accepted
    (new,) = decision.events
    assert new.stream == f"vm/{fresh()}"
    assert decision.id == fresh()
    assert decision.operation is None
    created = new.event
    assert isinstance(created, v.VmCreated)
    assert (created.name, created.cluster, created.data_center) == ("web01", CLUSTER, DATA_CENTER)
    assert created.configuration.memory_bytes == 1024 * MIB
    assert created.configuration.topology.count == 1


def test_a_vm_with_disks_waits_for_them_in_an_operation() -> None:
    command = CreateVm(name="web01", cluster=CLUSTER, disks=(DiskInput(size_bytes=MIB),))
    when = place().when(command)
    assert when.accepted.operation == str(COMMAND)
    operation = when.event(OperationStarted)
    assert (operation.kind, operation.target) == ("vm.create", f"vm/{fresh()}")
    assert operation.steps == ("assign", "create_disks")
    assert operation.cancellable
    state = when.follows().state(VM, fresh())
    assert state is not None
    assert state.status is VmStatus.IMAGE_LOCKED
    assert state.operation == str(COMMAND)


def test_disks_and_nics_get_ids_addresses_and_ports_that_stay() -> None:
    command = CreateVm(
        name="web01",
        cluster=CLUSTER,
        disks=(
            DiskInput(size_bytes=MIB, image="base.qcow2"),
            DiskInput(size_bytes=2 * MIB, bus=DiskBus.SCSI, name="data"),
        ),
        nics=(NicInput(bridge="br0"), NicInput(bridge="br1", mac="56:6f:1a:00:00:aa")),
    )
    configuration = place().when(command).event(v.VmCreated).configuration
    first, second = configuration.disks
    assert (first.id, second.id) == (fresh(1), fresh(2))
    assert (first.name, second.name) == ("disk0", "data")
    assert first.volume == f"{fresh()}/{fresh(1)}.qcow2"
    assert (first.bootable, second.bootable) == (True, False)
    assert (first.pci_bus, second.pci_bus) == (16, None)
    one, other = configuration.nics
    assert (one.id, one.mac, one.pci_bus) == (fresh(3), "56:6f:1a:00:00:01", 17)
    assert (other.id, other.mac, other.pci_bus) == (fresh(4), "56:6f:1a:00:00:aa", 18)
    assert configuration.pci_bus_next == 19


def test_a_disk_that_is_marked_bootable_takes_it_from_the_first() -> None:
    disks = (DiskInput(size_bytes=MIB), DiskInput(size_bytes=MIB, bootable=True))
    command = CreateVm(name="web01", cluster=CLUSTER, disks=disks)
    made = place().when(command).event(v.VmCreated).configuration.disks
    assert [disk.bootable for disk in made] == [False, True]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"cpu": Processors(sockets=16, cores=16, threads=4)}, "cpu"),
        ({"boot": BootInput(initrd="initrd.img")}, "boot"),
        ({"boot": BootInput(command_line="quiet")}, "boot"),
        ({"host": HOST_ID}, "host"),
        ({"disks": (DiskInput(size_bytes=MIB, name="a"),) * 2}, "disks"),
        ({"nics": (NicInput(bridge="br0", name="a"),) * 2}, "nics"),
        ({"nics": (NicInput(bridge="br0", mac="56:6f:1a:00:00:aa"),) * 2}, "nics"),
    ],
)
def test_what_makes_no_sense_together_is_refused_by_its_field(
    wanted: dict[str, object], field: str
) -> None:
    command = msgspec.structs.replace(CreateVm(name="web01", cluster=CLUSTER), **wanted)
    refusal = host().when(command).refused(InvalidField)
    assert refusal.extra["field"] == field
    assert refusal.remedy


def test_a_vm_needs_a_cluster_that_is_there() -> None:
    place().when(CreateVm(name="web01", cluster=NOBODY)).refused(NotFound, "cluster", NOBODY)


def test_the_host_of_the_disks_is_one_of_the_cluster() -> None:
    disks = (DiskInput(size_bytes=MIB),)
    named = CreateVm(name="web01", cluster=CLUSTER, disks=disks, host=HOST_ID)
    assert host().when(named).event(OperationStarted).host == HOST_ID
    place().when(named).refused(NotFound, "host", HOST_ID)
    elsewhere = place().and_then(
        (
            f"host/{HOST_ID}",
            msgspec.structs.replace(ADDED, cluster=OTHER_CLUSTER),
        )
    )
    assert elsewhere.when(named).refused(InvalidField, "cluster").extra["field"] == "host"


def test_a_start_asks_for_a_host_in_an_operation() -> None:
    when = vm().when(StartVm(id=VM_ID))
    operation = when.event(OperationStarted)
    assert operation.steps == ("place", "launch", "boot")
    assert when.event(v.VmStartRequested) == v.VmStartRequested(name="web01")
    assert when.accepted.operation == str(COMMAND)
    state = when.follows().state(VM, VM_ID)
    assert state is not None
    assert state.status is VmStatus.WAITING_FOR_LAUNCH
    assert state.operation == str(COMMAND)


def test_a_cold_start_of_a_suspended_vm_gives_its_memory_up() -> None:
    when = vm(VmStatus.SUSPENDED).when(StartVm(id=VM_ID, discard_saved_memory=True))
    discarded = when.event(VmMemoryDiscarded)
    assert (discarded.host, discarded.incarnation) == (HOST_ID, 1)
    state = when.follows().state(VM, VM_ID)
    assert state is not None
    assert state.memory is None
    assert [memory.file for memory in state.discarded_memory] == ["m.save"]


def test_a_suspended_vm_is_resumed_by_a_start() -> None:
    when = vm(VmStatus.SUSPENDED).when(ResumeVm(id=VM_ID))
    assert when.event(OperationStarted).kind == "vm.start"
    when.event(v.VmStartRequested)
    state = when.follows().state(VM, VM_ID)
    assert state is not None
    assert state.memory is not None


def test_a_paused_vm_goes_on_where_it_is() -> None:
    when = vm(VmStatus.PAUSED).when(ResumeVm(id=VM_ID))
    ordered = when.event(VmJobOrdered)
    assert (ordered.job.kind, ordered.host) == (JobKind.VM_CONTINUE, HOST_ID)
    assert when.event(OperationStarted).incarnation == 1


@pytest.mark.parametrize(
    ("command", "kind", "status"),
    [
        (ShutDownVm(id=VM_ID, timeout_s=30), JobKind.VM_SHUTDOWN, VmStatus.POWERING_DOWN),
        (RebootVm(id=VM_ID), JobKind.VM_REBOOT, VmStatus.REBOOT_IN_PROGRESS),
        (SuspendVm(id=VM_ID), JobKind.VM_SUSPEND, VmStatus.SAVING_STATE),
    ],
)
def test_what_a_host_is_to_do_is_ordered_from_the_host_of_the_run(
    command: ShutDownVm | RebootVm | SuspendVm, kind: JobKind, status: VmStatus
) -> None:
    when = vm(VmStatus.UP).when(command)
    (order,) = [new for new in when.accepted.events if isinstance(new.event, VmJobOrdered)]
    assert order.addressee == HOST_ID
    job = when.event(VmJobOrdered).job
    assert (job.kind, job.vm, job.incarnation) == (kind, VM_ID, 1)
    assert job.id.startswith(str(COMMAND))
    operation = when.event(OperationStarted)
    assert (operation.kind, operation.incarnation) == (kind.value, 1)
    state = when.follows().state(VM, VM_ID)
    assert state is not None
    assert state.status is status
    assert state.job(job.id) is not None


def test_a_shutdown_carries_its_time_out_and_a_suspend_its_file() -> None:
    shutdown = vm(VmStatus.UP).when(ShutDownVm(id=VM_ID, timeout_s=30)).event(VmJobOrdered)
    assert shutdown.job.timeout_s == 30
    suspend = vm(VmStatus.UP).when(SuspendVm(id=VM_ID)).event(VmJobOrdered)
    assert suspend.job.saved_memory == f"{VM_ID}/memory-1.save"


def test_a_stop_is_ordered_and_takes_back_what_the_host_was_to_do() -> None:
    shutting_down = vm(VmStatus.UP).when(ShutDownVm(id=VM_ID)).follows()
    when = shutting_down.when(StopVm(id=VM_ID))
    stop = when.event(VmStopRequested)
    assert (stop.host, stop.incarnation) == (HOST_ID, 1)
    withdrawn = when.event(VmJobWithdrawn)
    assert withdrawn.kind is JobKind.VM_SHUTDOWN
    addressees = {new.event: new.addressee for new in when.accepted.events if new.addressee}
    assert addressees == {stop: HOST_ID, withdrawn: HOST_ID}
    state = when.follows().state(VM, VM_ID)
    assert state is not None
    assert state.run is not None
    assert state.run.stopping
    assert state.jobs == ()


def test_a_stop_calls_off_a_start_that_found_no_host() -> None:
    when = vm(VmStatus.WAITING_FOR_LAUNCH).when(StopVm(id=VM_ID))
    (cancel,) = [
        new for new in when.accepted.events if isinstance(new.event, OperationCancelRequested)
    ]
    assert cancel.stream == f"operation/{STARTING}"
    assert when.event(OperationStarted).kind == "vm.stop"
    again = when.follows().when(StopVm(id=VM_ID))
    assert not [e for e in again.events if isinstance(e, OperationCancelRequested)]


def test_a_stop_of_a_suspended_vm_gives_its_memory_up() -> None:
    when = vm(VmStatus.SUSPENDED).when(StopVm(id=VM_ID))
    decision = when.then(VmMemoryDiscarded(name="web01", host=HOST_ID, incarnation=1))
    assert decision.operation is None
    state = when.follows().state(VM, VM_ID)
    assert state is not None
    assert state.status is VmStatus.DOWN
    assert state.memory is None


def test_an_update_changes_what_is_given_and_keeps_the_rest() -> None:
    when = vm(VmStatus.UP).when(
        UpdateVm(
            id=VM_ID,
            description="front",
            memory_bytes=512 * MIB,
            cpu=Processors(cores=2),
            boot=BootInput(kernel="vmlinuz", command_line="quiet"),
        )
    )
    updated = when.event(v.VmUpdated)
    assert (updated.name, updated.description) == ("web01", "front")
    now = updated.configuration
    assert now.memory_bytes == 512 * MIB
    assert now.topology == Topology(cores=2)
    assert now.boot == Boot(kernel="vmlinuz", command_line="quiet")
    assert (now.disks, now.nics) == (CONFIGURATION.disks, CONFIGURATION.nics)
    state = when.follows().state(VM, VM_ID)
    assert state is not None
    assert state.configuration_version == 2
    assert state.run is not None
    assert state.run.spec.configuration == CONFIGURATION


def test_a_disc_is_put_in_and_taken_out() -> None:
    with_disc = vm().when(UpdateVm(id=VM_ID, cdrom="install.iso")).follows()
    with_disc.when(UpdateVm(id=VM_ID, cdrom=UNSET)).then_nothing()
    taken = with_disc.when(UpdateVm(id=VM_ID, cdrom=None)).event(v.VmUpdated)
    assert taken.configuration.cdrom is None


def test_an_update_that_changes_nothing_says_nothing() -> None:
    vm().when(UpdateVm(id=VM_ID, name="web01", delete_protected=False)).then_nothing()


@pytest.mark.parametrize("seen", [None, 1])
def test_an_update_of_the_version_seen_is_accepted(seen: int | None) -> None:
    updated = vm().when(UpdateVm(id=VM_ID, name="web02"), if_match=seen).event(v.VmUpdated)
    assert updated.name == "web02"


def test_an_update_of_another_version_is_refused() -> None:
    changed = vm().when(UpdateVm(id=VM_ID, name="web02")).follows()
    changed.when(UpdateVm(id=VM_ID, name="web03"), if_match=1).refused(
        PreconditionFailed, "version 2, not 1"
    )


def test_a_vm_with_disks_is_removed_by_the_host_that_has_them() -> None:
    when = vm().when(RemoveVm(id=VM_ID))
    when.event(v.VmRemoveRequested)
    ordered = when.event(VmJobOrdered)
    assert (ordered.job.kind, ordered.host) == (JobKind.VOLUMES_REMOVE, HOST_ID)
    assert ordered.job.volumes == (DISK.volume,)
    assert when.accepted.operation == str(COMMAND)


def test_a_memory_that_was_given_up_is_removed_with_the_vm() -> None:
    given_up = vm(VmStatus.SUSPENDED).when(StopVm(id=VM_ID)).follows()
    job = given_up.when(RemoveVm(id=VM_ID)).event(VmJobOrdered).job
    assert job.volumes == (DISK.volume, "m.save")


def test_a_vm_without_files_is_gone_at_once() -> None:
    bare = msgspec.structs.replace(
        CREATED, configuration=msgspec.structs.replace(CONFIGURATION, disks=())
    )
    when = host(HostStatus.UP).and_then((f"vm/{VM_ID}", bare)).when(RemoveVm(id=VM_ID))
    requested, removed = when.events
    assert requested == v.VmRemoveRequested(name="web01", data_center=DATA_CENTER)
    assert removed == v.VmRemoved(name="web01", cluster=CLUSTER, macs=("56:6f:1a:00:00:01",))
    assert when.accepted.operation is None


def test_delete_protection_is_in_the_way_until_it_is_taken_off() -> None:
    protected = vm().when(UpdateVm(id=VM_ID, delete_protected=True)).follows()
    protected.when(RemoveVm(id=VM_ID)).refused(DeleteProtected, "--no-delete-protected")
    free = protected.when(UpdateVm(id=VM_ID, delete_protected=False)).follows()
    assert free.when(RemoveVm(id=VM_ID)).events


def test_a_memory_is_restored_once() -> None:
    """After it was restored and the VM went down, a start is a cold one (contract D 7)."""
    restored = vm(
        VmStatus.RESTORING_STATE,
        v.VmDown(
            name="web01",
            host=HOST_ID,
            host_name="kvm01",
            incarnation=1,
            reason=v.DownReason.CRASHED,
            restored=True,
        ),
    )
    state = restored.state(VM, VM_ID)
    assert state is not None
    assert (state.status, state.memory) == (VmStatus.DOWN, None)
    assert [memory.file for memory in state.discarded_memory] == ["m.save"]


def test_a_start_that_is_given_up_leaves_the_vm_as_it_was() -> None:
    abandoned = v.VmStartAbandoned(name="web01", reason="no host")
    for status, before in ((VmStatus.DOWN, ()), (VmStatus.SUSPENDED, (SUSPENDED,))):
        history = vm(status, WANTED, abandoned)
        state = history.state(VM, VM_ID)
        assert state is not None
        assert state.status is status, before
