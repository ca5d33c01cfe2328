"""Migrate a running VM."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.operation import begin
from commands.state.vm import VmStatus
from events.types.vm_migration import VmMigrationRequested


@command(
    "vm.migrate",
    path="/v1/vms/{id}/migrate",
    permission="MIGRATE_VM",
    verb="vm migrate",
    long=True,
    refusals=(NotFound, WrongState),
)
class MigrateVm(Command, frozen=True, kw_only=True):
    """Move a running VM to another host.

    To the host that is named, or to the first one of its cluster that can take it; the operation
    shows how far its memory is copied, and can be cancelled until it is. The VM runs all the while.
    Files of the VM must lie in a storage folder that both hosts share, and both agents must take
    part in migrations.
    """

    id: Id
    host: Id | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Ask for a destination; the placement policy chooses it and has the VM moved."""
        state = lookup.vm(world, self.id)
        lookup.require_vm_status(world, state, {VmStatus.UP}, "migrated")
        run = lookup.require_run(state)
        if self.host is not None and lookup.host(world, self.host).id == run.host:
            raise WrongState(
                f"VM {state.name} runs on host {run.host_name} already.",
                remedy="Name another host, or none to have one chosen.",
            )
        requested = VmMigrationRequested(name=state.name, incarnation=run.incarnation)
        return Decision.of(
            self.id,
            *on(f"vm/{self.id}", requested),
            begin(
                context,
                "vm.migrate",
                f"vm/{self.id}",
                state.name,
                "prepare",
                "copy",
                "hand_over",
                cancellable=True,
                host=self.host,
                incarnation=run.incarnation,
            ),
            operation=str(context.command),
        )
