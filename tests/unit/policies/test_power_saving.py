"""Hosts that run nothing are turned off to save power, and on again when they are needed."""

from __future__ import annotations

import pytest

from commands.cluster.balancing import SetClusterBalancing
from commands.cluster.schedule import ScheduleCluster
from commands.host.activate import ActivateHost
from commands.host.remove import RemoveHost
from commands.kernel.refusal import InvalidField
from commands.state.host import Duty, HostStatus
from events.types.balancing import BalancingMode, Rest
from events.types.cluster import SchedulingPolicy
from tests.unit.policies.puppet import play_on
from tests.unit.policies.puppet_power import FENCE, manage
from tests.unit.policies.stage import Stage
from tests.unit.policies.test_balancing import cluster, up

SAVING = SchedulingPolicy.POWER_SAVING


async def saving(hosts: int = 3, reserve: int = 0) -> tuple[Stage, list[str]]:
    """A cluster that saves power, with a VM on its first host."""
    stage = Stage()
    ids = await stage.open(hosts)
    for host in ids:
        await manage(stage, host)
    await up(stage, "vm", ids[0])
    await asked(stage, reserve)
    await stage.do(SetClusterBalancing(id=stage.cluster, mode=BalancingMode.AUTOMATIC))
    return stage, ids


async def asked(stage: Stage, reserve: int, *, on: bool = True) -> None:
    await stage.do(
        ScheduleCluster(
            id=stage.cluster,
            policy=SAVING,
            automatic_host_power_management=on,
            hosts_in_reserve=reserve,
        )
    )


async def minutes(stage: Stage, count: int, failing: tuple[str, ...] = ()) -> None:
    for _minute in range(count):
        await stage.pass_time(61)
        await play_on(stage, failing=failing)


async def resting(stage: Stage) -> dict[str, Rest]:
    return (await cluster(stage)).balance.resting


async def test_idle_hosts_are_turned_off_but_for_those_in_reserve() -> None:
    stage, hosts = await saving(4, reserve=1)
    await minutes(stage, 2)
    assert await resting(stage) == {}  # they have not been idle for long enough
    await minutes(stage, 12)
    assert await resting(stage) == {hosts[3]: Rest.OFF, hosts[2]: Rest.OFF}
    for host in hosts[2:]:
        state = await stage.host(host)
        assert state.status is HostStatus.DOWN
        assert state.duty is Duty.MAINTENANCE
        assert state.proved_off
    names = await stage.names()
    await minutes(stage, 5)
    assert (await stage.names())[len(names) :] == []
    assert [(await stage.host(host)).status for host in hosts[:2]] == [HostStatus.UP] * 2


async def test_one_host_stays_up_though_nothing_runs() -> None:
    stage = Stage()
    hosts = await stage.open(2)
    for host in hosts:
        await manage(stage, host)
    await asked(stage, 0)
    await stage.do(SetClusterBalancing(id=stage.cluster, mode=BalancingMode.AUTOMATIC))
    await minutes(stage, 12)
    assert list((await resting(stage)).values()) == [Rest.OFF]


async def test_a_host_is_turned_on_and_activated_when_more_are_to_be_in_reserve() -> None:
    stage, hosts = await saving(2)
    await minutes(stage, 8)
    assert await resting(stage) == {hosts[1]: Rest.OFF}
    await asked(stage, 1)
    await minutes(stage, 2)
    assert await resting(stage) == {hosts[1]: Rest.ROUSED}
    await minutes(stage, 2)
    assert (await stage.host(hosts[1])).status is HostStatus.REBOOT
    await stage.hello(hosts[1], boot="another")
    await minutes(stage, 2)
    assert await resting(stage) == {}
    assert (await stage.host(hosts[1])).status is HostStatus.UP


async def test_a_host_that_could_not_be_turned_on_is_turned_on_again() -> None:
    """given a BMC that fails, when hosts are needed, then it is tried again, and one is enough"""
    stage, _hosts = await saving(3)
    await minutes(stage, 12)
    assert list((await resting(stage)).values()) == [Rest.OFF, Rest.OFF]
    await asked(stage, 1)
    await minutes(stage, 2, failing=(FENCE,))
    (roused,) = [host for host, rest in (await resting(stage)).items() if rest is Rest.ROUSED]
    assert "host.fenced_on" not in await stage.names()

    await minutes(stage, 3)

    assert (await stage.names()).count("host.fenced_on") == 1
    await stage.hello(roused, boot="another")
    await minutes(stage, 2)
    assert (await stage.host(roused)).status is HostStatus.UP
    assert list((await resting(stage)).values()) == [Rest.OFF]


async def test_a_host_that_may_be_off_though_nobody_saw_it_is_turned_on_when_needed() -> None:
    stage, hosts = await saving(2)
    await minutes(stage, 10, failing=(FENCE,))
    assert await resting(stage) == {hosts[1]: Rest.OFF}
    assert not (await stage.host(hosts[1])).proved_off
    await asked(stage, 1)
    await minutes(stage, 2)
    assert (await stage.names()).count("host.fenced_on") == 1


async def test_hosts_come_up_again_where_power_is_not_to_be_saved_any_more() -> None:
    stage, hosts = await saving(2)
    await minutes(stage, 8)
    await stage.do(SetClusterBalancing(id=stage.cluster, mode=BalancingMode.OFF))
    await minutes(stage, 2)
    await stage.hello(hosts[1], boot="another")
    await minutes(stage, 2)
    assert (await stage.host(hosts[1])).status is HostStatus.UP
    assert await resting(stage) == {}


async def test_what_an_admin_does_with_a_host_counts() -> None:
    stage, hosts = await saving(3, reserve=1)
    await minutes(stage, 8)
    assert await resting(stage) == {hosts[2]: Rest.OFF}
    await stage.hello(hosts[2], boot="another")
    await stage.do(ActivateHost(id=hosts[2]))
    await minutes(stage, 1)
    assert await resting(stage) == {}
    await minutes(stage, 8)
    (longest_idle,) = await resting(stage)
    assert longest_idle == hosts[1]
    await stage.do(RemoveHost(id=longest_idle))
    await minutes(stage, 2)
    assert await resting(stage) == {}


async def test_hosts_without_power_management_stay_up() -> None:
    stage = Stage()
    await stage.open(3)
    await asked(stage, 0)
    await stage.do(SetClusterBalancing(id=stage.cluster, mode=BalancingMode.AUTOMATIC))
    await minutes(stage, 8)
    assert await resting(stage) == {}


async def test_it_is_off_unless_asked_for_and_of_power_saving_alone() -> None:
    stage, _hosts = await saving(3)
    await asked(stage, 0, on=False)
    await minutes(stage, 8)
    assert await resting(stage) == {}
    with pytest.raises(InvalidField):
        await stage.do(
            ScheduleCluster(id=stage.cluster, policy=SchedulingPolicy.NONE, hosts_in_reserve=1)
        )
