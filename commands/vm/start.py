"""Start a VM."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.operation import OPERATION, StepState, begin
from commands.state.vm import VmState, VmStatus
from commands.state.vm_availability import RESTART_KINDS
from events.types.base import Event
from events.types.vm import VmStartRequested
from events.types.vm_power import VmMemoryDiscarded


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
    is up. A suspended VM is resumed instead, unless its saved memory is to be discarded. A restart
    by high availability that still waits is ended: this start takes its place.
    """

    id: Id
    discard_saved_memory: bool = False

    def decide(self, world: World, context: Context) -> Decision:
        """Ask for a host; the placement policy answers."""
        state = lookup.vm(world, self.id)
        allowed = {VmStatus.DOWN, *self._also_suspended()}
        if _waits_for_restart(world, state):
            allowed.add(VmStatus.WAITING_FOR_LAUNCH)
        lookup.require_vm_status(world, state, allowed, "started")
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


def _waits_for_restart(world: World, state: VmState) -> bool:
    """Tell whether a policy is to start the VM later on: it is on no host, nor was it tried now.

    The restart sees that the VM is not its any more, and ends; both read the VM, so that one of two
    that come at the same time is decided again.
    """
    if state.status is not VmStatus.WAITING_FOR_LAUNCH or state.run is not None:
        return False
    owner = world.get(OPERATION, state.operation) if state.operation else None
    if owner is None or owner.kind not in RESTART_KINDS.values():
        return False
    return owner.steps.get("launch") not in {StepState.RUNNING, StepState.UNDOING}


def _discard(state: VmState) -> tuple[Event, ...]:
    if state.memory is None:
        return ()
    memory = state.memory
    return (VmMemoryDiscarded(name=state.name, host=memory.host, incarnation=memory.incarnation),)
