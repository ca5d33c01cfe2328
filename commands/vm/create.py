"""Create a VM."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import MIB, Bridge, Description, FileName, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import InUse, InvalidField, NameTaken, NotFound, WrongState
from commands.state import lookup
from commands.state.affinity_input import Ids
from commands.state.availability_input import (
    HighAvailabilityInput,
    StartWithHostInput,
    of_new,
    require_movable,
    require_restartable,
)
from commands.state.hardware import BootInput, Guaranteed, Memory, Processors, configuration
from commands.state.mac_input import Mac
from commands.state.mac_pool import MacPoolExhausted, free_addresses, pool_of, told_of
from commands.state.migration_input import MigrationInput
from commands.state.operation import begin
from commands.state.serial_input import SerialNumberInput
from commands.state.tuning_input import TuningInput, with_tuning
from commands.state.vm_hosts_input import host_choice
from events.types.base import Event
from events.types.migration_settings import VmMigrationSet
from events.types.run_spec import DiskBus
from events.types.vm import VmCreated
from events.types.vm_hosts import VmHostsChosen


class DiskInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A disk to make: empty, or a copy of `image`, a file of the host's storage folder."""

    size_bytes: Annotated[int, msgspec.Meta(ge=MIB, le=64 * 1024 * 1024 * MIB)]
    name: Name | None = None
    image: FileName | None = None
    bus: DiskBus = DiskBus.VIRTIO
    bootable: bool = False
    read_only: bool = False


class NicInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network interface on a bridge of the host; without `mac` it gets one of the MAC pool."""

    bridge: Bridge
    name: Name | None = None
    mac: Mac | None = None
    linked: bool = True


@command(
    "vm.create",
    path="/v1/vms",
    permission="CREATE_VM",
    verb="vm create",
    creates=True,
    long=True,
    refusals=(NotFound, NameTaken, InvalidField, InUse, WrongState, MacPoolExhausted),
)
class CreateVm(Command, frozen=True, kw_only=True):
    """Create a VM.

    Without disks the VM is there at once (201). With disks the answer is 202: they are made on the
    host named, or on the first that fits, and the VM then runs where its disks are. It runs on the
    chosen_hosts if it can, or, if it is pinned, on no others.
    """

    name: Name
    cluster: Id
    description: Description = ""
    delete_protected: bool = False
    memory_bytes: Memory = 1024 * MIB
    memory_guaranteed_bytes: Guaranteed | None = None
    ballooning: bool = True
    cpu: Processors = Processors()
    boot: BootInput = BootInput()
    cdrom: FileName | None = None
    disks: Annotated[tuple[DiskInput, ...], msgspec.Meta(max_length=32)] = ()
    nics: Annotated[tuple[NicInput, ...], msgspec.Meta(max_length=16)] = ()
    host: Id | None = None
    high_availability: HighAvailabilityInput | None = None
    start_with_host: StartWithHostInput | None = None
    migration: MigrationInput | None = None
    serial_number: SerialNumberInput | None = None
    tuning: TuningInput | None = None
    chosen_hosts: Ids = ()
    pinned: bool = False

    def decide(self, world: World, context: Context) -> Decision:
        """Create it under a new id; where there are disks, an operation makes them."""
        parent = lookup.cluster(world, self.cluster)
        self._require_host_of(world, parent.id)
        object_id = context.ids[0]
        pool = pool_of(world, parent.mac_pool)
        given = [nic.mac for nic in self.nics if nic.mac is not None]
        created = VmCreated(
            name=self.name,
            data_center=parent.data_center,
            cluster=parent.id,
            description=self.description,
            delete_protected=self.delete_protected,
            configuration=with_tuning(
                configuration(object_id, self, context, free_addresses(pool, context, given)),
                self.tuning,
            ),
            macs_shared=pool.allow_duplicates,
        )
        available = of_new(self.name, self.high_availability, self.start_with_host)
        moves = (
            VmMigrationSet(name=self.name, migration=self.migration.settings())
            if self.migration is not None
            else None
        )
        settings = (*available, *((moves,) if moves else ()), *self._chosen(world, parent.id))
        events = (*on(f"vm/{object_id}", created, *settings), *told_of(pool, created, context))
        if not self.disks:
            return Decision.of(object_id, *events)
        operation = begin(
            context,
            "vm.create",
            f"vm/{object_id}",
            self.name,
            "assign",
            "create_disks",
            cancellable=True,
            host=self.host,
        )
        return Decision.of(object_id, *events, operation, operation=str(context.command))

    def _chosen(self, world: World, cluster: str) -> tuple[Event, ...]:
        choice = host_choice(
            world, cluster, self.chosen_hosts, pinned=self.pinned, field="chosen_hosts"
        )
        if self.high_availability is not None and self.high_availability.enabled:
            require_restartable(self.name, choice)
            require_movable(self.name, (self.migration or MigrationInput()).mode)
        if not choice.hosts:
            return ()
        return (VmHostsChosen(name=self.name, hosts=choice.hosts, pinned=choice.pinned),)

    def _require_host_of(self, world: World, cluster: str) -> None:
        if self.host is None:
            return
        if not self.disks:
            raise InvalidField(
                "A host is named, but the VM has no disks that would lie there.",
                remedy="Leave 'host' out; a VM without disks runs on any host of its cluster.",
                field="host",
            )
        if lookup.host(world, self.host).cluster != cluster:
            raise InvalidField(
                "The host named is not in the VM's cluster.",
                remedy="Name a host of the cluster, or none.",
                field="host",
            )
