"""Start a VM."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.operation import begin
from commands.state.vm import VmState, VmStatus
from events.types.base import Event
from events.types.vm import VmMemoryDiscarded, VmStartRequested


@command(
    "vm.start",
    path="/v1/vms/{id}/start",
    permission="RUN_VM",
    verb="vm start",
    long=True,
    refusals=(NotFound, WrongState),
)
class StartVm(Command, frozen=True, kw_only=True):
    """Start a VM.

    A host is chosen; the operation shows which, or for each host why not, and ends once the guest
    is up. A suspended VM is resumed instead, unless its saved memory is to be discarded.
    """

    id: Id
    discard_saved_memory: bool = False

    def decide(self, world: World, context: Context) -> Decision:
        """Ask for a host; the placement policy answers."""
        state = lookup.vm(world, self.id)
        lookup.require_vm_status(world, state, {VmStatus.DOWN, *self._also_suspended()}, "started")
        requested = VmStartRequested(name=state.name)
        return Decision.of(
            self.id,
            *on(f"vm/{self.id}", *_discard(state), requested),
            begin(
                context,
                "vm.start",
                f"vm/{self.id}",
                state.name,
                "place",
                "launch",
                "boot",
                cancellable=True,
            ),
            operation=str(context.command),
        )

    def _also_suspended(self) -> set[VmStatus]:
        return {VmStatus.SUSPENDED} if self.discard_saved_memory else set()


def _discard(state: VmState) -> tuple[Event, ...]:
    if state.memory is None:
        return ()
    memory = state.memory
    return (VmMemoryDiscarded(name=state.name, host=memory.host, incarnation=memory.incarnation),)
