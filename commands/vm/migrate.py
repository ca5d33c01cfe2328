"""Migrate a running VM."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.operation import begin
from commands.state.vm import VmState, VmStatus
from events.types.migration import MigrationMode
from events.types.vm_migration import MigrationCause, VmMigrationRequested


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

    To the host that is named, or to the best one of its cluster; the operation shows its place
    while others go first, then how far its memory is copied, and can be cancelled until it is. The
    VM runs all the while. Files of the VM must lie in a storage folder that both hosts share, and
    both agents must take part in migrations. Where a host that was not named does not take it in,
    others are tried.
    """

    id: Id
    host: Id | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Ask for a destination; the placement policy chooses it and has the VM moved."""
        return request(world, context, self.id, host=self.host)


def request(
    world: World,
    context: Context,
    vm: str,
    *,
    cause: MigrationCause = MigrationCause.REQUESTED,
    host: str | None = None,
) -> Decision:
    """Return the decision to move a VM, which policies may make as well, for another cause.

    Raises NotFound, and WrongState for a VM that does not run, or that may not be moved.
    """
    state = lookup.vm(world, vm)
    lookup.require_vm_status(world, state, {VmStatus.UP}, "migrated")
    run = lookup.require_run(state)
    _require_mode(state, cause)
    if host is not None and lookup.host(world, host).id == run.host:
        raise WrongState(
            f"VM {state.name} runs on host {run.host_name} already.",
            remedy="Name another host, or none to have one chosen.",
        )
    requested = VmMigrationRequested(name=state.name, incarnation=run.incarnation, cause=cause)
    return Decision.of(
        vm,
        *on(f"vm/{vm}", requested),
        begin(
            context,
            "vm.migrate",
            f"vm/{vm}",
            state.name,
            "prepare",
            "copy",
            "hand_over",
            cancellable=True,
            host=host,
            incarnation=run.incarnation,
        ),
        operation=str(context.command),
    )


def _require_mode(state: VmState, cause: MigrationCause) -> None:
    mode = state.migrates.mode
    if mode is MigrationMode.NONE:
        raise WrongState(
            f"VM {state.name} may not be migrated.",
            remedy="Its migration mode says so: 'chronovisor vm migration --mode' changes it.",
        )
    if mode is MigrationMode.MANUAL and cause is not MigrationCause.REQUESTED:
        raise WrongState(
            f"VM {state.name} is migrated by people only.",
            remedy="Migrate it by hand, or set its migration mode to automatic.",
        )
