"""Suspend a VM."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.operation import begin
from commands.state.orders import order_job
from commands.state.vm import VmStatus
from events.types.job import Job, JobKind
from events.types.vm_power import VmSuspendRequested


@command(
    "vm.suspend",
    path="/v1/vms/{id}/suspend",
    permission="HIBERNATE_VM",
    verb="vm suspend",
    long=True,
    refusals=(NotFound, WrongState),
)
class SuspendVm(Command, frozen=True, kw_only=True):
    """Suspend a VM.

    Its memory is saved in the host's storage folder and the run ends; `vm resume` restores it.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Order the save."""
        state = lookup.vm(world, self.id)
        lookup.require_vm_status(world, state, {VmStatus.UP}, "suspended")
        run = lookup.require_run(state)
        operation = str(context.command)
        job = Job(
            id=f"{operation}/suspend",
            kind=JobKind.VM_SUSPEND,
            vm=self.id,
            incarnation=run.incarnation,
            saved_memory=f"{self.id}/memory-{run.incarnation}.save",
        )
        requested = VmSuspendRequested(name=state.name, incarnation=run.incarnation)
        return Decision.of(
            self.id,
            *on(f"vm/{self.id}", requested),
            order_job(job, run.host),
            begin(
                context,
                "vm.suspend",
                f"vm/{self.id}",
                state.name,
                "suspend",
                incarnation=run.incarnation,
            ),
            operation=operation,
        )
