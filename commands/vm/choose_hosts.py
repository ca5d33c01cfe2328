"""Choose the hosts that a VM may run on."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound, WrongState
from commands.state import lookup
from commands.state.affinity_input import Ids
from commands.state.availability_input import require_restartable
from commands.state.vm import VmStatus
from commands.state.vm_hosts_input import host_choice
from events.types.vm_hosts import VmHostsChosen

ALLOWED = frozenset(VmStatus) - {VmStatus.REMOVING, VmStatus.REMOVED}


@command(
    "vm.choose_hosts",
    path="/v1/vms/{id}/choose_hosts",
    permission="EDIT_VM_PROPERTIES",
    verb="vm choose-hosts",
    refusals=(NotFound, WrongState, InvalidField),
)
class ChooseHosts(Command, frozen=True, kw_only=True):
    """Choose the hosts that a VM may run on.

    One host or several of its cluster: on no others (pinned), or preferably there. With no hosts it
    runs on any. It counts at the next start or migration; a VM that runs elsewhere is moved by
    balancing. One that is highly available cannot be pinned to a single host.
    """

    id: Id
    hosts: Ids = ()
    pinned: bool = False

    def decide(self, world: World, context: Context) -> Decision:
        """Choose them; no event where they are chosen already."""
        del context
        state = lookup.vm(world, self.id)
        lookup.require_vm_status(world, state, ALLOWED, "updated")
        choice = host_choice(world, state.cluster, self.hosts, pinned=self.pinned)
        if choice == state.host_choice:
            return Decision.of(self.id)
        if state.availability.highly_available:
            require_restartable(state.name, choice)
        chosen = VmHostsChosen(name=state.name, hosts=choice.hosts, pinned=choice.pinned)
        return Decision.of(self.id, *on(f"vm/{self.id}", chosen))
