"""Have a VM restarted when it or its host fails."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.availability_input import (
    Priority,
    high_availability,
    require_movable,
    require_restartable,
)
from commands.state.host import HOST
from commands.state.vm import VmState, VmStatus

ALLOWED = frozenset(VmStatus) - {VmStatus.REMOVING, VmStatus.REMOVED}


@command(
    "vm.high_availability",
    path="/v1/vms/{id}/high_availability",
    permission="EDIT_VM_PROPERTIES",
    verb="vm high-availability",
    refusals=(NotFound, WrongState),
)
class SetHighAvailability(Command, frozen=True, kw_only=True):
    """Have a VM restarted when it or its host fails.

    It counts at once. A VM that crashes, whose host shuts down, or whose host is proved off is
    started again, those with the highest priority (1 to 100) first; one that its guest or an admin
    ended is not. `enabled: false` ends it. The priority stays as it is where none is given. A VM
    that is pinned to one host, or has migration mode none, cannot be highly available; of one whose
    files lie on one host alone, the event says so.
    """

    id: Id
    enabled: bool = True
    priority: Priority | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Change what differs; no event where nothing does."""
        del context
        state = lookup.vm(world, self.id)
        lookup.require_vm_status(world, state, ALLOWED, "updated")
        if self.enabled:
            require_restartable(state.name, state.host_choice)
            require_movable(state.name, state.migrates.mode)
        changed = high_availability(
            state.name,
            state.availability,
            enabled=self.enabled,
            priority=self.priority,
            tied_to=_only_holder(world, state),
        )
        return Decision.of(self.id, *on(f"vm/{self.id}", *changed))


def _only_holder(world: World, state: VmState) -> str:
    """Return the name of the host that alone sees the VM's files, "" where others do or may."""
    holder = world.get(HOST, state.disks_host) if state.disks_host is not None else None
    if holder is None or holder.capabilities is None or holder.capabilities.storage_id:
        return ""
    return holder.name
