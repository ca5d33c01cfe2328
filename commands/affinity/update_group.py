"""Change an affinity group's rules, priority, name or description."""

from __future__ import annotations

import msgspec

from commands.kernel.command import Command, Context, Decision, command
from commands.kernel.fields import Description, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import NameTaken, NotFound
from commands.state.affinity import AffinityConflict, find_group
from commands.state.affinity_change import change_group
from commands.state.affinity_input import (
    GroupPriority,
    HostEnforcing,
    HostPolarity,
    VmEnforcing,
    VmPolarity,
    rule,
)


@command(
    "affinity_group.update",
    method="PATCH",
    path="/v1/affinity_groups/{id}",
    permission="MANIPULATE_AFFINITY_GROUPS",
    verb="affinity-group update",
    refusals=(NotFound, NameTaken, AffinityConflict),
)
class UpdateAffinityGroup(Command, frozen=True, kw_only=True):
    """Change an affinity group's rules, priority, name or description.

    Fields that are not given stay as they are. It counts from the next start or migration on; what
    runs elsewhere is moved where the cluster balances by itself, or by 'cluster balance'.
    """

    id: Id
    name: Name | None = None
    description: Description | None = None
    vm_rule: VmPolarity | None = None
    vm_enforcing: VmEnforcing | None = None
    host_rule: HostPolarity | None = None
    host_enforcing: HostEnforcing | None = None
    priority: GroupPriority | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Change what differs; no event where nothing does."""
        del context
        state = find_group(world, self.id)
        now = state.affinity
        affinity = msgspec.structs.replace(
            now,
            vm_rule=rule(now.vm_rule, self.vm_rule, enforcing=self.vm_enforcing),
            host_rule=rule(now.host_rule, self.host_rule, enforcing=self.host_enforcing),
            priority=now.priority if self.priority is None else self.priority,
        )
        after = msgspec.structs.replace(
            state,
            name=state.name if self.name is None else self.name,
            description=state.description if self.description is None else self.description,
            affinity=affinity,
        )
        return change_group(world, state, after)
