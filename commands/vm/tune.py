"""Say how a VM's processors and memory lie on those of its host."""

from __future__ import annotations

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound, PreconditionFailed, WrongState
from commands.state import lookup
from commands.state.tuning_input import (
    CpuPolicyInput,
    HighPerformance,
    HugePageBytes,
    NumaNodes,
    Pins,
    require_consistent,
    tuning,
)
from events.types.vm import VmUpdated
from events.types.vm_tuning import CpuPolicy


@command(
    "vm.tune",
    path="/v1/vms/{id}/tuning",
    permission="EDIT_VM_PROPERTIES",
    verb="vm tune",
    refusals=(NotFound, WrongState, InvalidField, PreconditionFailed),
)
class TuneVm(Command, frozen=True, kw_only=True):
    """Say how a VM's processors and memory lie on those of its host.

    It counts from the VM's next run. What is not given is not so any more: with no field at all,
    virtual CPUs run on any CPU of the host, the guest sees no NUMA nodes, and its memory is
    ordinary. NUMA nodes share out all virtual CPUs and all memory. With cpu_policy dedicated or
    isolate_threads no other VM runs on the VM's CPUs, which are chosen with its host.
    """

    id: Id
    cpu_pins: Pins = ()
    numa_nodes: NumaNodes = ()
    huge_page_bytes: HugePageBytes | None = None
    high_performance: HighPerformance = False
    cpu_policy: CpuPolicyInput = CpuPolicy.NONE

    def decide(self, world: World, context: Context) -> Decision:
        """Set it; no event where it is so already."""
        state = lookup.vm(world, self.id)
        lookup.require_version(context.if_match, state.configuration_version)
        lookup.require_vm_status(world, state, lookup.EDITABLE, "updated")
        wanted = tuning(
            self.cpu_pins,
            self.numa_nodes,
            self.huge_page_bytes,
            high_performance=self.high_performance,
            cpu_policy=self.cpu_policy,
        )
        changed = msgspec.structs.replace(state.configuration, tuning=wanted)
        require_consistent(changed)
        if changed == state.configuration:
            return Decision.of(self.id)
        updated = VmUpdated(
            name=state.name,
            previous_name=state.name,
            data_center=state.data_center,
            description=state.description,
            delete_protected=state.delete_protected,
            configuration=changed,
        )
        return Decision.of(self.id, *on(f"vm/{self.id}", updated))
