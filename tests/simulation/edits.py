"""What admins change besides what VMs do: VMs' settings, affinity groups, and the cluster's."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from commands.affinity.add_to_group import AddToAffinityGroup
from commands.affinity.create_group import CreateAffinityGroup
from commands.affinity.remove_group import RemoveAffinityGroup
from commands.affinity.take_from_group import TakeFromAffinityGroup
from commands.affinity.update_group import UpdateAffinityGroup
from commands.cluster.balance import BalanceCluster
from commands.cluster.balancing import SetClusterBalancing
from commands.cluster.fencing import SetClusterFencing
from commands.cluster.migration import SetClusterMigration
from commands.cluster.resources import SetClusterResources
from commands.cluster.schedule import ScheduleCluster
from commands.cluster.update import UpdateCluster
from commands.state.hardware import Processors
from commands.vm.choose_hosts import ChooseHosts
from commands.vm.tune import TuneVm
from commands.vm.update import UpdateVm
from events.types.affinity import Polarity
from events.types.balancing import BalancingMode
from events.types.cluster import SchedulingPolicy
from events.types.migration import MigrationPolicy
from events.types.vm_tuning import CpuPolicy
from tests.simulation.world import World

GIB = 1024**3
GROUPS_MAX = 3
INTERVALS_S = (10, 30, 60)


class Edits:
    """Draws changes from the world's dice; `groups` are the affinity groups that were made."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._made = 0
        self.groups: list[str] = []

    def draw(self, vms: list[str]) -> Any:
        """Return a command that changes something, of these VMs or of what they are in."""
        kinds: list[tuple[Callable[[random.Random, list[str]], Any], float]] = [
            (self._of_vm, 5 if vms else 0),
            (self._of_group, 4),
            (self._of_cluster, 4),
        ]
        dice = self._world.dice
        (kind,) = dice.choices([one for one, _ in kinds], [weight for _, weight in kinds])
        return kind(dice, vms)

    def _of_vm(self, dice: random.Random, vms: list[str]) -> Any:
        vm = dice.choice(vms)
        self._made += 1
        match dice.randrange(6):
            case 0:
                return UpdateVm(id=vm, name=f"{vm[-4:]}-{self._made}", description="renamed")
            case 1:
                return UpdateVm(id=vm, memory_bytes=dice.choice([1, 2, 6]) * GIB)
            case 2:
                return UpdateVm(id=vm, cpu=Processors(cores=dice.choice([1, 2, 4])))
            case 3:
                return UpdateVm(id=vm, delete_protected=dice.random() < 0.3)
            case 4:
                return TuneVm(id=vm, cpu_policy=dice.choice(list(CpuPolicy)))
            case _:
                hosts = dice.sample(sorted(self._world.hosts), dice.randrange(3))
                pinned = bool(hosts) and dice.random() < 0.3
                return ChooseHosts(id=vm, hosts=tuple(hosts), pinned=pinned)

    def _of_group(self, dice: random.Random, vms: list[str]) -> Any:
        hosts = sorted(self._world.hosts)
        members = tuple(dice.sample(vms, min(len(vms), dice.randrange(1, 4))))
        where = tuple(dice.sample(hosts, dice.randrange(2)))
        if len(self.groups) < GROUPS_MAX or dice.random() < 0.1:
            self._made += 1
            return CreateAffinityGroup(
                name=f"group{self._made}",
                cluster=self._world.cluster,
                vm_rule=dice.choice(list(Polarity)),
                vm_enforcing=dice.random() < 0.5,
                host_rule=dice.choice(list(Polarity)),
                host_enforcing=dice.random() < 0.3,
                vms=members,
                hosts=where,
            )
        group = dice.choice(self.groups)
        match dice.randrange(4):
            case 0:
                return AddToAffinityGroup(id=group, vms=members, hosts=where)
            case 1:
                return TakeFromAffinityGroup(id=group, vms=members, hosts=where)
            case 2:
                self.groups.remove(group)
                return RemoveAffinityGroup(id=group)
            case _:
                rule, enforcing = dice.choice(list(Polarity)), dice.random() < 0.5
                return UpdateAffinityGroup(id=group, vm_rule=rule, vm_enforcing=enforcing)

    def _of_cluster(self, dice: random.Random, _vms: list[str]) -> Any:
        cluster = self._world.cluster
        self._made += 1
        match dice.randrange(8):
            case 0:
                return UpdateCluster(id=cluster, name=f"Default{self._made}")
            case 1:
                return SetClusterResources(
                    id=cluster,
                    memory_percent=dice.choice([100, 150, 200]),
                    ha_reservation=dice.random() < 0.5,
                )
            case 2:
                # In most runs all may be fenced: that is what they are for.
                return SetClusterFencing(id=cluster, enabled=dice.random() < 0.9)
            case 3:
                policy = dice.choice(list(MigrationPolicy))
                return SetClusterMigration(
                    id=cluster, policy=policy, outgoing_max=dice.choice([1, 2, 5])
                )
            case 4 | 5:
                return ScheduleCluster(id=cluster, policy=dice.choice(list(SchedulingPolicy)))
            case 6:
                return BalanceCluster(id=cluster)
            case _:
                return SetClusterBalancing(
                    id=cluster,
                    mode=dice.choice([*BalancingMode, BalancingMode.AUTOMATIC]),
                    interval_s=dice.choice(INTERVALS_S),
                )
