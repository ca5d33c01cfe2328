"""Have a VM restarted when it or its host fails."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.availability_input import Priority, high_availability
from commands.state.vm import VmStatus

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
    ended is not. `enabled: false` ends it. The priority stays as it is where none is given.
    """

    id: Id
    enabled: bool = True
    priority: Priority | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Change what differs; no event where nothing does."""
        del context
        state = lookup.vm(world, self.id)
        lookup.require_vm_status(world, state, ALLOWED, "updated")
        changed = high_availability(
            state.name, state.availability, enabled=self.enabled, priority=self.priority
        )
        return Decision.of(self.id, *on(f"vm/{self.id}", *changed))
