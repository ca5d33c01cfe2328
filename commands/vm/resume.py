"""Resume a suspended or paused VM."""

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
from events.types.vm import VmStartRequested


@command(
    "vm.resume",
    path="/v1/vms/{id}/resume",
    permission="RUN_VM",
    verb="vm resume",
    long=True,
    refusals=(NotFound, WrongState),
)
class ResumeVm(Command, frozen=True, kw_only=True):
    """Resume a suspended or paused VM.

    A suspended VM's memory is restored on the host where it lies, once, with the hardware that it
    was saved with: what was changed since waits for a start from nothing. A paused VM runs on.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Ask for the place of the saved memory, or let the CPUs run."""
        state = lookup.vm(world, self.id)
        allowed = {VmStatus.SUSPENDED, VmStatus.PAUSED}
        status = lookup.require_vm_status(world, state, allowed, "resumed")
        stream, operation = f"vm/{self.id}", str(context.command)
        if status is VmStatus.PAUSED and state.run is not None:
            job = Job(
                id=f"{operation}/continue",
                kind=JobKind.VM_CONTINUE,
                vm=self.id,
                incarnation=state.run.incarnation,
            )
            started = begin(
                context,
                "vm.continue",
                stream,
                state.name,
                "continue",
                incarnation=state.run.incarnation,
            )
            return Decision.of(
                self.id, order_job(job, state.run.host), started, operation=operation
            )
        started = begin(
            context, "vm.start", stream, state.name, "place", "launch", "boot", cancellable=True
        )
        requested = VmStartRequested(name=state.name)
        return Decision.of(self.id, *on(stream, requested), started, operation=operation)
