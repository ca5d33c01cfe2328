"""Change a VM's settings."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, FileName, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import (
    InvalidField,
    NameTaken,
    NotFound,
    PreconditionFailed,
    WrongState,
)
from commands.state import lookup
from commands.state.hardware import (
    BootInput,
    Guaranteed,
    Memory,
    Processors,
    boot,
    require_within,
    topology,
)
from commands.state.serial_input import SerialNumberInput
from commands.state.tuning_input import require_consistent
from commands.state.vm import VmState
from events.types.run_spec import VmConfiguration
from events.types.vm import VmUpdated


@command(
    "vm.update",
    method="PATCH",
    path="/v1/vms/{id}",
    permission="EDIT_VM_PROPERTIES",
    verb="vm update",
    refusals=(NotFound, NameTaken, InvalidField, WrongState, PreconditionFailed),
)
class UpdateVm(Command, frozen=True, kw_only=True):
    """Change a VM's settings.

    Fields that are not given stay as they are. Name, description and delete protection count at
    once, hardware from the VM's next run. `cdrom: null` takes the disc out, `serial_number: null`
    makes it the cluster's policy again, `memory_guaranteed_bytes: null` guarantees what its
    cluster's over-commitment leaves.
    """

    id: Id
    name: Name | None = None
    description: Description | None = None
    delete_protected: bool | None = None
    memory_bytes: Memory | None = None
    memory_guaranteed_bytes: Guaranteed | UnsetType | None = UNSET
    ballooning: bool | None = None
    cpu: Processors | None = None
    boot: BootInput | None = None
    cdrom: FileName | UnsetType | None = UNSET
    serial_number: SerialNumberInput | UnsetType | None = UNSET

    def decide(self, world: World, context: Context) -> Decision:
        """Change what differs; no event where nothing does."""
        state = lookup.vm(world, self.id)
        lookup.require_version(context.if_match, state.configuration_version)
        lookup.require_vm_status(world, state, lookup.EDITABLE, "updated")
        updated = VmUpdated(
            name=state.name if self.name is None else self.name,
            previous_name=state.name,
            data_center=state.data_center,
            description=state.description if self.description is None else self.description,
            delete_protected=(
                state.delete_protected if self.delete_protected is None else self.delete_protected
            ),
            configuration=self._configuration(state.configuration),
        )
        if _same(updated, state):
            return Decision.of(self.id)
        return Decision.of(self.id, *on(f"vm/{self.id}", updated))

    def _configuration(self, now: VmConfiguration) -> VmConfiguration:
        wanted = msgspec.structs.replace(
            now,
            memory_bytes=now.memory_bytes if self.memory_bytes is None else self.memory_bytes,
            memory_guaranteed_bytes=(
                now.memory_guaranteed_bytes
                if isinstance(self.memory_guaranteed_bytes, UnsetType)
                else self.memory_guaranteed_bytes
            ),
            ballooning=now.ballooning if self.ballooning is None else self.ballooning,
            topology=now.topology if self.cpu is None else topology(self.cpu),
            boot=now.boot if self.boot is None else boot(self.boot),
            cdrom=now.cdrom if self.cdrom is UNSET else self.cdrom,
            serial_number=(
                now.serial_number
                if isinstance(self.serial_number, UnsetType)
                else self.serial_number and self.serial_number.settings()
            ),
        )
        require_within(wanted.memory_bytes, wanted.memory_guaranteed_bytes)
        return require_consistent(wanted)


def _same(updated: VmUpdated, state: VmState) -> bool:
    return (
        updated.name == state.name
        and updated.description == state.description
        and updated.delete_protected == state.delete_protected
        and updated.configuration == state.configuration
    )
