"""Create an affinity group."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NameTaken, NotFound
from commands.state import lookup
from commands.state.affinity import (
    AffinityConflict,
    AffinityGroupState,
    groups_of,
    require_no_conflict,
)
from commands.state.affinity_input import (
    GroupPriority,
    HostEnforcing,
    HostPolarity,
    Ids,
    Names,
    VmEnforcing,
    VmPolarity,
    rule,
    with_members,
)
from events.types.affinity import Affinity, AffinityGroupCreated, Polarity, Rule
from events.types.cluster import ClusterAffinityGroupsListed


@command(
    "affinity_group.create",
    path="/v1/affinity_groups",
    permission="MANIPULATE_AFFINITY_GROUPS",
    verb="affinity-group create",
    creates=True,
    refusals=(NotFound, NameTaken, InvalidField, AffinityConflict),
)
class CreateAffinityGroup(Command, frozen=True, kw_only=True):
    """Create an affinity group.

    It says of VMs of one cluster whether they belong on one host or on different ones, and whether
    on certain hosts or not on them. An enforcing rule is kept at every start and migration; a soft
    one where that is possible. Groups whose enforcing rules contradict each other are refused.
    """

    name: Name
    cluster: Id
    description: Description = ""
    vm_rule: VmPolarity = Polarity.DISABLED
    vm_enforcing: VmEnforcing = False
    host_rule: HostPolarity = Polarity.DISABLED
    host_enforcing: HostEnforcing = False
    priority: GroupPriority = 1.0
    vms: Ids = ()
    hosts: Ids = ()
    vm_labels: Ids = ()
    host_labels: Ids = ()

    def decide(self, world: World, context: Context) -> Decision:
        """Create it where it contradicts no other group of the cluster."""
        cluster = lookup.cluster(world, self.cluster)
        names = Names(
            vms=self.vms,
            hosts=self.hosts,
            vm_labels=self.vm_labels,
            host_labels=self.host_labels,
        )
        key = context.ids[0]
        rules = Affinity(
            vm_rule=rule(Rule(), self.vm_rule, enforcing=self.vm_enforcing),
            host_rule=rule(Rule(), self.host_rule, enforcing=self.host_enforcing),
            priority=self.priority,
        )
        affinity = with_members(world, rules, names, cluster.id)
        group = AffinityGroupState(
            id=key,
            name=self.name,
            cluster=cluster.id,
            description=self.description,
            affinity=affinity,
        )
        require_no_conflict(groups_of(world, cluster, group))
        created = AffinityGroupCreated(
            name=self.name,
            cluster=cluster.id,
            description=self.description,
            affinity=affinity,
        )
        listed = ClusterAffinityGroupsListed(
            name=cluster.name, groups=(*cluster.affinity_groups, key)
        )
        return Decision.of(
            key, *on(f"affinity_group/{key}", created), *on(f"cluster/{cluster.id}", listed)
        )
