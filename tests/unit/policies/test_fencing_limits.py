"""Fencing where little can be told or done: clusters of one host, and hosts switched just now."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from commands.cluster.create import CreateCluster
from commands.host.confirm_off import ConfirmHostOff
from commands.policies.fence_rules import STORM_LONGER_MAX
from commands.policies.runner import Runner
from commands.policies.saga import Timeouts
from commands.state.operation import StepState
from commands.state.vm import VmStatus
from events.types.host_power import (
    FenceAction,
    HostFencedOff,
    HostFencedOn,
    HostKdumpStarted,
    PowerState,
)
from events.types.operation import Outcome
from tests.unit.policies.puppet_power import answer, manage
from tests.unit.policies.stage import FENCE_RULES
from tests.unit.policies.test_fencing import Scenery, scenery

SETTLE_S = FENCE_RULES.settle_s


# ---------------------------------------------------------------------- a cluster of one host


async def add_elsewhere(scene: Scenery, name: str) -> str:
    """Add a host in another cluster of the same data center."""
    stage, own = scene.stage, scene.stage.cluster
    center = (await scene.host()).data_center
    stage.cluster = await stage.do(CreateCluster(name=f"of {name}", data_center=center))
    host = await stage.add_host(name)
    stage.cluster = own
    scene.hosts.append(host)
    await stage.settle()
    return host


async def test_the_only_host_of_a_data_center_is_not_turned_off_and_says_what_to_do() -> None:
    """given one host in all, then no storm is told, and its own operation says why it waits"""
    scene = await scenery(hosts=1)
    await scene.fall_silent()
    await scene.stage.pass_time(1_000)
    attention = str((await scene.fencing()).attention)
    assert "no other host of its data center" in attention
    assert await scene.count("host.fence_ordered") == 0
    assert await scene.count("cluster.fencing_held") == 0
    needs = [r.event for r in await scene.stage.history() if "attention" in r.name]
    assert ["confirm-off host1" in each.remedy for each in needs] == [True]  # type: ignore[attr-defined]

    await scene.stage.hello(scene.lost)

    assert (await scene.fencing()).outcome is Outcome.SUCCEEDED


async def test_a_cluster_of_one_host_is_fenced_through_its_data_center() -> None:
    scene = await scenery(hosts=1)
    proxy = await add_elsewhere(scene, "neighbour")
    await scene.fall_silent()
    await scene.confirm()
    assert [host for host, _order in await scene.orders()] == [proxy]
    await scene.answer()
    assert (await scene.host()).proved_off > 0
    assert (await scene.stage.vm(scene.vm)).status is VmStatus.DOWN


async def test_a_cluster_of_one_host_waits_while_most_of_its_data_center_is_lost() -> None:
    scene = await scenery(hosts=1)
    others = [await add_elsewhere(scene, name) for name in ("second", "third")]
    await scene.stage.silence(others[0])
    await scene.fall_silent()
    await scene.stage.pass_time(SETTLE_S)
    attention = str((await scene.fencing()).attention)
    assert "only host of its cluster, and 2 of 3 hosts, more than 50 %," in attention
    assert await scene.orders() == []

    await scene.stage.hello(others[0])
    await scene.stage.pass_time(FENCE_RULES.retry_s)
    await scene.confirm()

    assert len(await scene.orders()) == 1


async def test_one_of_two_hosts_is_fenced_by_the_other() -> None:
    scene = await scenery(hosts=2)
    await scene.fall_silent()
    await scene.confirm()
    assert [host for host, _order in await scene.orders()] == [scene.hosts[1]]


async def test_a_fencing_under_way_gives_the_hosts_of_a_storm_the_time_to_come_back() -> None:
    """given a fencing that a storm held up, when the storm ends, then it waits as a new one does"""
    scene = await scenery(hosts=3)
    await scene.fall_silent()
    await scene.stage.silence(scene.hosts[1])
    await scene.stage.pass_time(SETTLE_S)
    await scene.confirm()
    assert await scene.count("cluster.fencing_held") == 1
    await scene.stage.hello(scene.hosts[1])
    await scene.stage.pass_time(1)
    assert await scene.count("cluster.fencing_resumed") == 1
    asked = (await scene.host()).power.questioned
    over = scene.stage.now + dt.timedelta(seconds=FENCE_RULES.storm_s - 2)
    while scene.stage.now < over:
        await scene.stage.pass_time(1)
        assert (await scene.host()).power.questioned == asked
        assert await scene.orders() == []
    assert "just come back" in str((await scene.fencing()).attention)

    await scene.stage.pass_time(FENCE_RULES.retry_s)
    await scene.confirm()

    assert len(await scene.orders()) == 1


async def test_each_host_that_comes_back_gives_the_others_of_a_storm_as_much_time_again() -> None:
    """given a storm that ended, when hosts come back one after the other, then a lost one waits"""
    scene = await scenery(hosts=5)
    lost = scene.hosts[:3]
    for host in lost[1:]:
        await scene.stage.silence(host)
    await scene.fall_silent()
    assert await scene.count("cluster.fencing_held") == 1
    for host in lost[1:]:
        await scene.stage.hello(host)
        await scene.stage.pass_time(FENCE_RULES.storm_s - 2)
    assert await scene.count("cluster.fencing_resumed") == 1
    assert await scene.count("host.fencing_begun") == 0

    await scene.stage.pass_time(3)

    assert await scene.count("host.fencing_begun") == 1


async def test_hosts_that_come_and_go_after_a_storm_do_not_hold_fencing_for_ever() -> None:
    scene = await scenery(hosts=3)
    await scene.stage.silence(scene.hosts[1])
    await scene.fall_silent()
    assert await scene.count("cluster.fencing_held") == 1
    begun = scene.stage.now
    while not await scene.count("host.fencing_begun"):
        await scene.stage.hello(scene.hosts[1])
        await scene.stage.pass_time(FENCE_RULES.storm_s / 2)
    waited_s = (scene.stage.now - begun).total_seconds()
    longest_s = FENCE_RULES.storm_s * STORM_LONGER_MAX
    assert longest_s <= waited_s <= longest_s + FENCE_RULES.storm_s


async def test_hosts_that_are_proved_off_do_not_make_the_loss_of_most_others_look_small() -> None:
    """given five hosts of which two are off, when two more are lost, then that are too many"""
    scene = await scenery(hosts=5)
    for host in scene.hosts[1:3]:
        await scene.stage.silence(host)
        name = (await scene.stage.host(host)).name
        await scene.stage.do(ConfirmHostOff(id=host, name=name))
    await scene.stage.silence(scene.hosts[3])

    await scene.fall_silent()

    assert await scene.count("cluster.fencing_held") == 1
    assert await scene.count("host.fence_ordered") == 0


async def test_a_host_that_is_proved_off_takes_no_place_while_it_is_turned_on() -> None:
    """given one place, when the first host is off and not on yet, then the next one is begun"""
    scene = await scenery(hosts=5)
    await manage(scene.stage, scene.hosts[1])
    one = msgspec.structs.replace(FENCE_RULES, at_once_max=1)
    scene.stage.runner = Runner(
        scene.stage.log, scene.stage.context, Timeouts(fencing=one), "narrow"
    )
    await scene.stage.runner.begin()
    await scene.stage.silence(scene.lost)
    await scene.stage.pass_time(1)
    await scene.stage.silence(scene.hosts[1])
    await scene.stage.pass_time(SETTLE_S)
    await scene.confirm()
    assert await scene.count("host.fencing_begun") == 1

    await scene.answer()

    assert (await scene.fencing()).steps["on"] is StepState.RUNNING
    assert await scene.count("host.fencing_begun") == 2


# ---------------------------------------------------------------------- the quiet time


async def switched(*, quiet_s: float) -> Scenery:
    """Set the stage: the host was turned on a moment ago, has a VM, and is lost again."""
    scene = await scenery()
    rules = msgspec.structs.replace(FENCE_RULES, quiet_s=quiet_s)
    scene.stage.runner = Runner(
        scene.stage.log, scene.stage.context, Timeouts(fencing=rules), "patient"
    )
    await scene.stage.runner.begin()
    name = (await scene.host()).name
    on = HostFencedOn(name=name, order="earlier", proxy_name="host2")
    await scene.stage.append(f"host/{scene.lost}", on)
    await scene.fall_silent()
    await scene.confirm()
    operation = await scene.fencing()
    assert operation.steps["quiet"] is StepState.RUNNING
    return scene


async def test_a_host_that_was_switched_a_moment_ago_is_asked_and_not_turned_off() -> None:
    """given a host that may be booting, when its BMC says on, then it is left alone for a while"""
    scene = await switched(quiet_s=100)
    begun = scene.stage.now
    asked = 0
    while (await scene.fencing()).steps["quiet"] is StepState.RUNNING:
        for _proxy, order in await scene.orders():
            assert order.action is FenceAction.STATUS
            asked += 1
            await scene.answer(PowerState.ON)
        assert "may be booting" in (await scene.fencing()).detail
        assert (await scene.fencing()).attention is None
        await scene.stage.pass_time(FENCE_RULES.margin_s)
    waited_s = (scene.stage.now - begun).total_seconds()
    assert 90 <= waited_s <= 100
    assert asked > 10
    await scene.confirm()
    _proxy, order = await scene.order()
    assert order.action is FenceAction.OFF


async def test_that_it_is_off_is_proof_in_its_quiet_time_too() -> None:
    scene = await switched(quiet_s=1_000)
    await scene.answer(PowerState.ON)
    await scene.stage.pass_time(FENCE_RULES.margin_s)

    await scene.answer(PowerState.OFF)

    assert (await scene.host()).proved_off > 0
    assert (await scene.stage.vm(scene.vm)).status is VmStatus.DOWN
    (proof,) = [r.event for r in await scene.stage.history() if r.name == "host.fenced_off"]
    assert isinstance(proof, HostFencedOff)
    assert proof.found
    audit = proof.audit()
    assert audit is not None
    assert audit.name == "HOST_FOUND_OFF"
    _proxy, order = await scene.order()
    assert order.action is FenceAction.ON
    await scene.answer()
    operation = await scene.fencing()
    assert operation.outcome is Outcome.SUCCEEDED
    assert set(operation.steps.values()) == {StepState.DONE}


@pytest.mark.parametrize("state", [PowerState.ON, PowerState.UNKNOWN])
async def test_no_other_answer_is_proof(state: PowerState) -> None:
    scene = await switched(quiet_s=1_000)
    await scene.answer(state, "bmc says so.")
    assert (await scene.host()).proved_off == 0
    assert (await scene.stage.vm(scene.vm)).run is not None


async def test_that_it_was_off_before_it_answered_is_no_proof() -> None:
    """given a status that was asked for before the host's return, then it proves nothing"""
    scene = await switched(quiet_s=1_000)
    proxy, order = await scene.order()
    await scene.stage.hello(scene.lost)
    off = answer(order)
    await scene.stage.report(proxy, msgspec.structs.replace(off, state=PowerState.OFF))
    assert (await scene.host()).proved_off == 0
    assert (await scene.stage.vm(scene.vm)).status is VmStatus.UP


async def test_a_proxy_that_does_not_tell_is_replaced_in_the_quiet_time() -> None:
    scene = await switched(quiet_s=1_000)
    proxy, _order = await scene.order()
    await scene.stage.pass_time(FENCE_RULES.status_timeout_s + FENCE_RULES.margin_s)
    second, _order = await scene.order()
    assert second != proxy
    await scene.answer(PowerState.OFF)
    assert (await scene.host()).proved_off > 0


# ---------------------------------------------------------------------- kernel dumps


async def test_a_dump_is_seen_in_the_operation() -> None:
    scene = await scenery(kdump=True)
    await scene.fall_silent()
    name = (await scene.host()).name
    await scene.stage.append(f"host/{scene.lost}", HostKdumpStarted(name=name, address="192.0.2.9"))
    await scene.stage.settle()
    operation = await scene.fencing()
    assert operation.steps["kdump"] is StepState.RUNNING
    assert "writes its dump" in operation.detail
