"""Reboot a VM."""

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
from events.types.vm_power import VmRebootRequested

_ALLOWED = frozenset({VmStatus.UP, VmStatus.POWERING_UP})


@command(
    "vm.reboot",
    path="/v1/vms/{id}/reboot",
    permission="REBOOT_VM",
    verb="vm reboot",
    long=True,
    refusals=(NotFound, WrongState),
)
class RebootVm(Command, frozen=True, kw_only=True):
    """Reboot a VM.

    The guest is reset at once, within the same run: changes that wait for the next run go on
    waiting.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Order the reset."""
        state = lookup.vm(world, self.id)
        lookup.require_vm_status(world, state, _ALLOWED, "rebooted")
        run = lookup.require_run(state)
        operation = str(context.command)
        job = Job(
            id=f"{operation}/reboot",
            kind=JobKind.VM_REBOOT,
            vm=self.id,
            incarnation=run.incarnation,
        )
        requested = VmRebootRequested(name=state.name, incarnation=run.incarnation)
        return Decision.of(
            self.id,
            *on(f"vm/{self.id}", requested),
            order_job(job, run.host),
            begin(
                context,
                "vm.reboot",
                f"vm/{self.id}",
                state.name,
                "reboot",
                incarnation=run.incarnation,
            ),
            operation=operation,
        )
