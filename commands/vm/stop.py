"""Power a VM off."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.operation import OPERATION, begin
from commands.state.orders import order_stop, withdraw_run_jobs
from commands.state.vm import VmState, VmStatus
from events.envelope import NewEvent
from events.types.operation import OperationCancelRequested
from events.types.vm_power import VmMemoryDiscarded

_ALLOWED = frozenset(
    {
        VmStatus.WAITING_FOR_LAUNCH,
        VmStatus.POWERING_UP,
        VmStatus.RESTORING_STATE,
        VmStatus.UP,
        VmStatus.MIGRATING,
        VmStatus.PAUSED,
        VmStatus.REBOOT_IN_PROGRESS,
        VmStatus.POWERING_DOWN,
        VmStatus.SUSPENDED,
    }
)


@command(
    "vm.stop",
    path="/v1/vms/{id}/stop",
    permission="STOP_VM",
    verb="vm stop",
    long=True,
    refusals=(NotFound, WrongState),
)
class StopVm(Command, frozen=True, kw_only=True):
    """Power a VM off.

    At once, as by pulling its plug: the guest loses what it did not write. A start that found no
    host yet is called off. Of a suspended VM, the saved memory is given up.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Order the host to end the run, or call its start off."""
        state = lookup.vm(world, self.id)
        lookup.require_vm_status(world, state, _ALLOWED, "powered off")
        if state.memory is not None and state.status is VmStatus.SUSPENDED:
            discarded = VmMemoryDiscarded(
                name=state.name, host=state.memory.host, incarnation=state.memory.incarnation
            )
            return Decision.of(self.id, *on(f"vm/{self.id}", discarded))
        return Decision.of(
            self.id,
            *_orders(world, state),
            begin(
                context,
                "vm.stop",
                f"vm/{self.id}",
                state.name,
                "stop",
                incarnation=state.run.incarnation if state.run else 0,
            ),
            operation=str(context.command),
        )


def _orders(world: World, state: VmState) -> tuple[NewEvent, ...]:
    if state.run is not None:
        return (order_stop(state, state.run), *withdraw_run_jobs(state))
    start = world.get(OPERATION, state.operation) if state.operation else None
    if start is None or not start.open or start.cancel_requested:
        return ()
    return (NewEvent(f"operation/{start.id}", OperationCancelRequested()),)
