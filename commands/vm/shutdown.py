"""Ask a VM's guest to shut down."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.operation import begin
from commands.state.orders import order_job
from commands.state.vm import VmStatus
from events.types.job import Job, JobKind
from events.types.vm_power import VmShutdownRequested

_ALLOWED = frozenset({VmStatus.UP, VmStatus.POWERING_UP, VmStatus.REBOOT_IN_PROGRESS})


@command(
    "vm.shutdown",
    path="/v1/vms/{id}/shutdown",
    permission="SHUT_DOWN_VM",
    verb="vm shutdown",
    long=True,
    refusals=(NotFound, WrongState),
)
class ShutDownVm(Command, frozen=True, kw_only=True):
    """Ask a VM's guest to shut down.

    The guest's power button is pressed, again and again until the guest is down or `timeout_s` is
    over; then the VM is up as before and the operation has failed.
    """

    id: Id
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 300.0

    def decide(self, world: World, context: Context) -> Decision:
        """Order the press; the operation waits for the end of the run."""
        state = lookup.vm(world, self.id)
        lookup.require_vm_status(world, state, _ALLOWED, "shut down")
        run = lookup.require_run(state)
        operation = str(context.command)
        job = Job(
            id=f"{operation}/shutdown",
            kind=JobKind.VM_SHUTDOWN,
            vm=self.id,
            incarnation=run.incarnation,
            timeout_s=self.timeout_s,
        )
        requested = VmShutdownRequested(name=state.name, incarnation=run.incarnation)
        return Decision.of(
            self.id,
            *on(f"vm/{self.id}", requested),
            order_job(job, run.host),
            begin(
                context,
                "vm.shutdown",
                f"vm/{self.id}",
                state.name,
                "shutdown",
                incarnation=run.incarnation,
                cancellable=True,
            ),
            operation=operation,
        )
