"""Choose who may have a VM moved while it runs, and how that is done."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.availability_input import Priority, require_movable
from commands.state.migration_input import Bandwidth, DownTime
from commands.state.vm import VmStatus
from events.types.migration import MigrationMode, MigrationPolicy, VmMigrationSettings
from events.types.migration_settings import VmMigrationSet

ALLOWED = frozenset(VmStatus) - {VmStatus.REMOVING, VmStatus.REMOVED}


@command(
    "vm.migration",
    path="/v1/vms/{id}/migration",
    permission="EDIT_VM_PROPERTIES",
    verb="vm migration",
    refusals=(NotFound, WrongState),
)
class SetVmMigration(Command, frozen=True, kw_only=True):
    """Choose who may have a VM moved while it runs, and how that is done.

    It counts for migrations that begin from now on. What is not given is as by default again: mode
    automatic (people and the scheduler move it; manual: people only; none: nobody, which a highly
    available VM cannot have), the cluster's policy and bandwidth, down times as the policy has
    them, the priority of high availability. The line between the hosts is always encrypted.
    """

    id: Id
    mode: MigrationMode = MigrationMode.AUTOMATIC
    policy: MigrationPolicy | None = None
    down_time_ms: DownTime | None = None
    bandwidth_bytes_per_s: Bandwidth | None = None
    priority: Priority | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Set it; no event where it is so already."""
        del context
        state = lookup.vm(world, self.id)
        lookup.require_vm_status(world, state, ALLOWED, "updated")
        wanted = VmMigrationSettings(
            mode=self.mode,
            policy=self.policy,
            down_time_ms=self.down_time_ms,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s,
            priority=self.priority,
        )
        if wanted == state.migrates:
            return Decision.of(self.id)
        if state.availability.highly_available:
            require_movable(state.name, wanted.mode)
        changed = VmMigrationSet(name=state.name, migration=wanted)
        return Decision.of(self.id, *on(f"vm/{self.id}", changed))
