"""Have a VM start with its host."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.availability_input import Delay, Priority, start_with_host
from commands.state.vm import VmStatus

ALLOWED = frozenset(VmStatus) - {VmStatus.REMOVING, VmStatus.REMOVED}


@command(
    "vm.start_with_host",
    path="/v1/vms/{id}/start_with_host",
    permission="EDIT_VM_PROPERTIES",
    verb="vm start-with-host",
    refusals=(NotFound, WrongState),
)
class SetStartWithHost(Command, frozen=True, kw_only=True):
    """Have a VM start with its host.

    Once the host where it last ran (or, if it never ran, where its disks lie) is back after a boot,
    the VM is started, `delay_s` later and those with the highest priority (1 to 100) first, unless
    an admin had stopped it. It counts from the host's next boot on. `enabled: false` ends it.
    """

    id: Id
    enabled: bool = True
    priority: Priority | None = None
    delay_s: Delay | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Change what differs; no event where nothing does."""
        del context
        state = lookup.vm(world, self.id)
        lookup.require_vm_status(world, state, ALLOWED, "updated")
        changed = start_with_host(
            state.name,
            state.availability,
            enabled=self.enabled,
            priority=self.priority,
            delay_s=self.delay_s,
        )
        return Decision.of(self.id, *on(f"vm/{self.id}", *changed))
