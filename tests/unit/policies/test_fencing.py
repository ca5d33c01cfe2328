"""Fencing: what turns a host off, what stops that, and what is proof (contract D 1, 2)."""

from __future__ import annotations

import msgspec
import pytest

from commands.cluster.fencing import SetClusterFencing
from commands.gateway.fencing import decide_fence
from commands.host.confirm_off import ConfirmHostOff
from commands.operation.cancel import CancelOperation
from commands.policies.fence_rules import SETTLES_AFTER_STORM
from commands.policies.runner import Runner
from commands.policies.saga import Timeouts
from commands.state.host import HostState
from commands.state.operation import OperationState, StepState
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm
from commands.vm.start import StartVm
from events.types.host import HostSessionStarted, HostSilent
from events.types.host_power import (
    FenceAgent,
    FenceOrder,
    HostKdumpEnded,
    HostKdumpStarted,
    HostSilenceConfirmed,
    PowerState,
)
from events.types.host_ssh import HostSshEnded, HostSshOrdered, SshTask
from events.types.operation import Outcome
from events.types.vm import DownReason
from events.wire.agent import FenceItem
from tests.unit.policies.puppet import copied, cuts, operations, play_on
from tests.unit.policies.puppet_power import answer, manage, open_orders
from tests.unit.policies.stage import FENCE_RULES, Stage

SETTLE_S = FENCE_RULES.settle_s
RESUME_S = SETTLE_S * SETTLES_AFTER_STORM
SECOND = FenceAgent(name="second", type="ipmilan", address="192.0.2.101", order=2)
TWIN = FenceAgent(name="twin", type="ipmilan", address="192.0.2.101", order=1)


class Scenery:
    """A cluster of which one host, with a VM, is lost."""

    def __init__(self, stage: Stage, hosts: list[str], vm: str) -> None:
        self.stage = stage
        self.hosts = hosts
        self.vm = vm

    @property
    def lost(self) -> str:
        """The host that falls silent."""
        return self.hosts[0]

    async def fall_silent(self) -> None:
        """Let the host fall silent, and the silence settle."""
        await self.stage.silence(self.lost)
        await self.stage.pass_time(SETTLE_S)

    async def confirm(self) -> None:
        """Have the gateway confirm the silence, unless it has a moment ago."""
        state = await self.host()
        if state.power.questioned <= state.power.confirmed:
            assert await self.orders(), "nobody asked"
            return
        confirmed = HostSilenceConfirmed(name=state.name, last_contact=self.stage.now, timeout_s=60)
        await self.stage.append(f"host/{self.lost}", confirmed)
        await self.stage.settle()

    async def host(self) -> HostState:
        return await self.stage.host(self.lost)

    async def orders(self) -> list[tuple[str, FenceOrder]]:
        """Return the open orders, each with its proxy."""
        found = []
        for host in self.hosts:
            found += [(host, order) for order in await open_orders(self.stage, host)]
        return found

    async def order(self) -> tuple[str, FenceOrder]:
        """Return the one open order."""
        (found,) = await self.orders()
        return found

    async def answer(self, state: PowerState | None = None, reason: str = "") -> None:
        """Have the proxy answer its order, by default with what was wanted."""
        proxy, order = await self.order()
        item = answer(order)
        if state is not None:
            item = FenceItem(order=order.id, host=order.host, state=state, reason=reason)
        await self.stage.report(proxy, item)

    async def fencing(self) -> OperationState:
        """Return the one fencing of the lost host that there was."""
        (found,) = [
            each
            for each in (await operations(self.stage)).values()
            if each.kind == "host.fence" and each.target_id == self.lost
        ]
        return found

    async def count(self, name: str) -> int:
        """Return how many events of a name there are."""
        return (await self.stage.names()).count(name)


async def scenery(
    *agents: FenceAgent, hosts: int = 3, kdump: bool = False, managed: bool = True
) -> Scenery:
    """Set the stage: the VM runs on the host that will be lost."""
    stage = Stage()
    ids = await stage.open(hosts)
    vm = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
    await stage.do(StartVm(id=vm))
    await play_on(stage)
    run = (await stage.vm(vm)).run
    assert run is not None
    ids.sort(key=lambda host: host != run.host)
    if managed:
        await manage(stage, run.host, *agents, kdump=kdump)
    return Scenery(stage, ids, vm)


async def ordered(*agents: FenceAgent, hosts: int = 3) -> Scenery:
    """Set the stage up to the order to turn the host off."""
    scene = await scenery(*agents, hosts=hosts)
    await scene.fall_silent()
    await scene.confirm()
    assert (await scene.fencing()).steps["off"] is StepState.RUNNING
    return scene


# ---------------------------------------------------------------------- the good end


async def test_a_lost_host_is_turned_off_proved_and_turned_on_and_its_vms_are_down() -> None:
    scene = await ordered()
    assert (await scene.stage.vm(scene.vm)).status is VmStatus.UP
    assert (await scene.host()).proved_off == 0

    await scene.answer()

    host, vm = await scene.host(), await scene.stage.vm(scene.vm)
    assert host.proved_off > 0
    assert vm.status is VmStatus.DOWN
    assert vm.ending is not None
    assert vm.ending.reason is DownReason.HOST_LOST
    await scene.answer()
    operation = await scene.fencing()
    assert operation.outcome is Outcome.SUCCEEDED
    assert await scene.count("host.fenced_on") == 1
    assert await scene.orders() == []


async def test_an_answer_other_than_off_is_no_proof() -> None:
    """given an order to turn off, when the answer is anything but off, then all stays unknown"""
    for state in (PowerState.ON, PowerState.UNKNOWN):
        scene = await ordered()
        await scene.answer(state, "bmc says so.")
        assert (await scene.host()).proved_off == 0
        assert (await scene.stage.vm(scene.vm)).run is not None
        assert await scene.count("host.fenced_off") == 0


async def test_the_secret_is_never_in_an_event() -> None:
    scene = await ordered()
    _proxy, order = await scene.order()
    assert [agent.password for agent in order.agents] == ["vault/x"]


# ---------------------------------------------------------------------- what stops it


@pytest.mark.parametrize("moment", ["settling", "asking", "ordered", "answered"])
async def test_a_host_that_returns_before_it_is_off_stops_it(moment: str) -> None:
    scene = await scenery()
    await scene.stage.silence(scene.lost)
    if moment != "settling":
        await scene.stage.pass_time(SETTLE_S)
    if moment in {"ordered", "answered"}:
        await scene.confirm()
        proxy, order = await scene.order()

    await scene.stage.hello(scene.lost)

    if moment == "answered":  # the proxy's answer comes too late
        await scene.stage.report(proxy, answer(order))
    await scene.stage.pass_time(10 * SETTLE_S)
    assert await scene.orders() == []
    assert await scene.count("host.fenced_off") == 0
    assert (await scene.stage.vm(scene.vm)).status is VmStatus.UP
    if moment != "settling":
        assert (await scene.fencing()).outcome is Outcome.SUCCEEDED
    else:
        assert await scene.count("host.fencing_begun") == 0


async def test_an_answer_after_the_host_has_returned_proves_nothing() -> None:
    scene = await ordered()
    proxy, order = await scene.order()
    await scene.stage.hello(scene.lost)

    await scene.stage.report(proxy, answer(order))

    assert (await scene.host()).proved_off == 0
    assert (await scene.stage.vm(scene.vm)).status is VmStatus.UP


async def test_an_answer_from_before_the_hosts_return_proves_nothing_of_its_next_silence() -> None:
    """given policies that slept through a return, then an older answer is no proof of the next"""
    scene = await ordered()
    proxy, order = await scene.order()
    state = await scene.host()
    returned = HostSessionStarted(name=state.name, session="s2", boot=str(state.boot), protocol=1)
    silent = HostSilent(name=state.name, last_contact=scene.stage.now, timeout_s=60)
    await scene.stage.append(f"host/{scene.lost}", returned, silent)
    await scene.stage.decide(lambda world, _context: decide_fence(world, proxy, answer(order)))

    await scene.stage.settle()

    assert (await scene.host()).proved_off == 0
    assert await scene.count("host.fenced_off") == 0
    assert (await scene.stage.vm(scene.vm)).run is not None


async def test_an_answer_to_an_order_that_was_withdrawn_or_from_another_proves_nothing() -> None:
    scene = await ordered()
    proxy, order = await scene.order()
    other = next(host for host in scene.hosts[1:] if host != proxy)
    await scene.stage.report(other, answer(order))
    assert (await scene.host()).proved_off == 0

    await scene.stage.pass_time(FENCE_RULES.off_timeout_s + FENCE_RULES.margin_s)
    await scene.stage.report(proxy, answer(order))

    assert (await scene.host()).proved_off == 0


async def test_a_confirmation_by_hand_ends_it() -> None:
    scene = await ordered()
    name = (await scene.host()).name
    await scene.stage.do(ConfirmHostOff(id=scene.lost, name=name))
    await scene.stage.settle()
    assert (await scene.fencing()).outcome is Outcome.SUCCEEDED
    assert await scene.orders() == []
    assert (await scene.stage.vm(scene.vm)).status is VmStatus.DOWN


async def test_a_fencing_that_was_cancelled_is_not_begun_again_for_that_silence() -> None:
    scene = await ordered()
    await scene.stage.do(CancelOperation(id=(await scene.fencing()).id))
    await scene.stage.settle()
    await scene.stage.pass_time(1_000)
    assert (await scene.fencing()).outcome is Outcome.CANCELLED
    assert await scene.orders() == []

    await scene.stage.hello(scene.lost)
    await scene.fall_silent()

    assert await scene.count("host.fencing_begun") == 2


# ---------------------------------------------------------------------- the silence is confirmed


async def test_nothing_is_ordered_before_the_gateway_confirms_the_silence() -> None:
    """given an engine that was frozen or just started, then it confirms nothing, and it waits"""
    scene = await scenery()
    await scene.fall_silent()
    for _ in range(5):
        await scene.stage.pass_time(FENCE_RULES.retry_s)
    assert await scene.orders() == []
    attention = (await scene.fencing()).attention
    assert attention is not None
    assert "cannot be told" in attention

    await scene.confirm()

    assert len(await scene.orders()) == 1


async def test_a_confirmation_that_is_old_is_asked_for_again() -> None:
    """given policies that stood still after the confirmation, then they ask anew"""
    scene = await scenery()
    await scene.fall_silent()
    state = await scene.host()
    confirmed = HostSilenceConfirmed(name=state.name, last_contact=scene.stage.now, timeout_s=60)
    await scene.stage.append(f"host/{scene.lost}", confirmed)

    await scene.stage.pass_time(900)

    assert await scene.orders() == []
    state = await scene.host()
    assert state.power.questioned > state.power.confirmed


# ---------------------------------------------------------------------- agents and proxies


async def test_agents_in_order_are_tried_in_turn_each_through_two_proxies() -> None:
    first = FenceAgent(name="bmc", type="ipmilan", address="192.0.2.100")
    scene = await ordered(first, SECOND, hosts=4)
    seen = []
    for _ in range(4):
        proxy, order = await scene.order()
        seen.append((proxy, tuple(agent.name for agent in order.agents)))
        if len(seen) == 4:
            await scene.answer()
            break
        await scene.answer(PowerState.UNKNOWN, "no answer.")
        await scene.confirm()
    assert [names for _proxy, names in seen] == [("bmc",), ("bmc",), ("second",), ("second",)]
    assert seen[0][0] != seen[1][0]
    assert scene.lost not in {proxy for proxy, _names in seen}
    assert (await scene.host()).proved_off > 0


async def test_concurrent_agents_are_in_one_order() -> None:
    first = FenceAgent(name="bmc", type="ipmilan", address="192.0.2.100", order=1)
    scene = await ordered(first, TWIN)
    _proxy, order = await scene.order()
    assert {agent.name for agent in order.agents} == {"bmc", "twin"}


async def test_a_proxy_that_does_not_answer_is_replaced() -> None:
    scene = await ordered()
    proxy, _order = await scene.order()
    await scene.stage.pass_time(FENCE_RULES.off_timeout_s + FENCE_RULES.margin_s)
    await scene.confirm()
    second, _order = await scene.order()
    assert second != proxy
    assert await scene.count("host.fence_withdrawn") == 1


async def test_a_failure_is_shown_and_tried_again_later_each_time() -> None:
    scene = await ordered(hosts=2)
    await scene.answer(PowerState.UNKNOWN, "bmc has no power.")
    operation = await scene.fencing()
    assert operation.attention is not None
    assert "bmc has no power" in operation.attention
    assert "not known" in operation.attention
    assert operation.steps["off"] is StepState.REFUSED
    assert await scene.count("host.fence_failed") == 1
    assert operation.open
    first = operation.timers["retry"]
    await scene.stage.pass_time((first - scene.stage.now).total_seconds())
    await scene.confirm()
    await scene.answer(PowerState.UNKNOWN, "bmc has no power.")
    second = (await scene.fencing()).timers["retry"]
    assert (second - scene.stage.now).total_seconds() == 2 * FENCE_RULES.retry_s

    await scene.stage.pass_time(2 * FENCE_RULES.retry_s)
    await scene.confirm()
    await scene.answer()
    assert (await scene.host()).proved_off > 0


async def test_without_power_management_it_says_so_and_waits() -> None:
    scene = await scenery(managed=False)
    await scene.fall_silent()
    attention = (await scene.fencing()).attention
    assert attention is not None
    assert "no power management" in attention
    await manage(scene.stage, scene.lost)
    await scene.stage.settle()
    await scene.stage.pass_time(FENCE_RULES.retry_s)
    await scene.confirm()
    assert len(await scene.orders()) == 1


async def test_a_host_without_the_program_is_no_proxy() -> None:
    strange = FenceAgent(name="bmc", type="apc_snmp", address="192.0.2.100")
    scene = await scenery(strange)
    await scene.fall_silent()
    await scene.confirm()
    assert await scene.orders() == []
    attention = (await scene.fencing()).attention
    assert attention is not None
    assert "fence_apc_snmp" in attention


# ---------------------------------------------------------------------- when nothing is turned off


async def test_nothing_is_turned_off_where_fencing_is_disabled() -> None:
    scene = await scenery()
    await scene.stage.do(SetClusterFencing(id=scene.stage.cluster, enabled=False))
    await scene.fall_silent()
    await scene.stage.pass_time(1_000)
    assert await scene.orders() == []
    assert "disabled" in str((await scene.fencing()).attention)


async def test_half_of_a_cluster_may_be_fenced_and_more_may_not() -> None:
    """given 2 of 4 hosts lost, then both are fenced; given 3 of 4, none is, with one alert"""
    scene = await scenery(hosts=4)
    for host in scene.hosts[:2]:
        await scene.stage.silence(host)
    await scene.stage.pass_time(SETTLE_S)
    assert await scene.count("host.fencing_begun") == 2
    assert await scene.count("cluster.fencing_held") == 0

    scene = await scenery(hosts=4)
    for host in scene.hosts[:3]:
        await scene.stage.silence(host)
    for _ in range(10):
        await scene.stage.pass_time(SETTLE_S)
    assert await scene.count("host.fencing_begun") == 0
    assert await scene.count("cluster.fencing_held") == 1

    for host in scene.hosts[1:3]:
        await scene.stage.hello(host)
    await scene.stage.pass_time(SETTLE_S)
    assert await scene.count("cluster.fencing_resumed") == 1
    assert await scene.count("host.fencing_begun") == 0
    await scene.stage.pass_time(RESUME_S)
    assert await scene.count("host.fencing_begun") == 1


async def test_few_are_fenced_at_a_time_and_those_that_wait_for_a_person_take_no_place() -> None:
    """given one place, when the first in it waits for a person, then the next has its turn"""
    scene = await scenery(managed=False, hosts=5)
    await manage(scene.stage, scene.hosts[1])
    stage = await copied(scene.stage, await scene.stage.log.head())
    one = msgspec.structs.replace(FENCE_RULES, at_once_max=1)
    stage.runner = Runner(stage.log, stage.context, Timeouts(fencing=one), "other")
    await stage.runner.begin()
    await stage.silence(scene.hosts[1])
    await stage.silence(scene.hosts[0])
    await stage.pass_time(SETTLE_S)
    begun = [r.object_id for r in await stage.history() if r.name == "host.fencing_begun"]
    assert begun == [scene.hosts[1]]
    assert (await stage.host(scene.hosts[1])).power.questioned

    await stage.hello(scene.hosts[1])
    await stage.silence(scene.hosts[2])
    await stage.pass_time(SETTLE_S)

    begun = [r.object_id for r in await stage.history() if r.name == "host.fencing_begun"]
    assert begun == [scene.hosts[1], scene.hosts[0], scene.hosts[2]]


async def test_a_fencing_under_way_stops_where_the_rest_of_the_cluster_is_lost_too() -> None:
    scene = await scenery(hosts=3)
    await scene.fall_silent()
    await scene.stage.silence(scene.hosts[1])
    await scene.confirm()
    assert await scene.orders() == []
    assert "lost at once" in str((await scene.fencing()).attention)
    await scene.stage.hello(scene.hosts[1])
    await scene.stage.pass_time(FENCE_RULES.retry_s)
    await scene.confirm()
    assert len(await scene.orders()) == 1


async def test_the_connectivity_rule_of_a_cluster_is_stricter() -> None:
    scene = await scenery(hosts=4)
    await scene.stage.do(
        SetClusterFencing(
            id=scene.stage.cluster,
            skip_if_connectivity_broken=True,
            connectivity_broken_percent=25,
        )
    )
    await scene.fall_silent()
    assert await scene.count("host.fencing_begun") == 0
    assert await scene.count("cluster.fencing_held") == 1


async def test_the_engines_own_host_is_never_turned_off() -> None:
    scene = await scenery()
    state = await scene.host()
    for rules in ({"protected": {state.name}}, {"protected_boots": {state.boot}}):
        stage = await copied(scene.stage, await scene.stage.log.head())
        fencing = type(FENCE_RULES)(settle_s=SETTLE_S, retry_s=10, **rules)
        stage.runner = Runner(stage.log, stage.context, Timeouts(fencing=fencing), "other")
        await stage.runner.begin()
        await stage.silence(scene.lost)
        await stage.pass_time(SETTLE_S)
        await stage.pass_time(1_000)
        (operation,) = [
            each for each in (await operations(stage)).values() if each.kind == "host.fence"
        ]
        assert "engine" in str(operation.attention)
        assert "host.fence_ordered" not in await stage.names()


# ---------------------------------------------------------------------- soft fencing


async def reached_by_ssh() -> Scenery:
    """Set the stage: the lost host was installed over SSH."""
    scene = await scenery()
    name = (await scene.host()).name
    install = HostSshOrdered(name=name, order="install", task=SshTask.INSTALL, address="192.0.2.7")
    done = HostSshEnded(name=name, order="install", task=SshTask.INSTALL, succeeded=True)
    await scene.stage.append(f"host/{scene.lost}", install, done)
    await scene.fall_silent()
    return scene


async def test_an_agent_that_can_be_reached_over_ssh_is_restarted_first() -> None:
    scene = await reached_by_ssh()
    order = (await scene.host()).ssh.order
    assert order is not None
    assert order.task is SshTask.RESTART_AGENT
    assert (await scene.host()).power.questioned == 0

    await scene.stage.hello(scene.lost)

    operation = await scene.fencing()
    assert operation.outcome is Outcome.SUCCEEDED
    assert "not turned off" in operation.reason
    assert await scene.count("host.fence_ordered") == 0


@pytest.mark.parametrize(
    ("succeeded", "waits_s"), [(True, FENCE_RULES.soft_timeout_s), (False, FENCE_RULES.margin_s)]
)
async def test_a_restart_proves_nothing_and_an_agent_that_was_restarted_has_time_to_start(
    succeeded: bool,  # noqa: FBT001 - a case
    waits_s: float,
) -> None:
    """given an agent that was restarted, then its hello is waited for; else only for a moment"""
    scene = await reached_by_ssh()
    state = await scene.host()
    assert state.ssh.order is not None
    ended = HostSshEnded(
        name=state.name,
        order=state.ssh.order.order,
        task=SshTask.RESTART_AGENT,
        succeeded=succeeded,
    )
    await scene.stage.append(f"host/{scene.lost}", ended)
    await scene.stage.settle()
    await scene.stage.pass_time(waits_s - 1)
    assert (await scene.fencing()).steps["soft"] is StepState.RUNNING
    await scene.stage.pass_time(1)
    assert (await scene.fencing()).steps["soft"] is StepState.DONE
    assert (await scene.host()).proved_off == 0
    await scene.confirm()
    assert len(await scene.orders()) == 1


async def test_a_restart_without_an_answer_is_given_up() -> None:
    scene = await reached_by_ssh()
    await scene.stage.pass_time(FENCE_RULES.soft_timeout_s)
    assert (await scene.fencing()).steps["soft"] is StepState.DONE
    await scene.confirm()
    assert len(await scene.orders()) == 1


# ---------------------------------------------------------------------- kernel dumps


async def test_a_dump_is_waited_for_and_proves_nothing() -> None:
    scene = await scenery(kdump=True)
    await scene.fall_silent()
    name = (await scene.host()).name
    await scene.stage.append(f"host/{scene.lost}", HostKdumpStarted(name=name, address="192.0.2.9"))
    await scene.stage.settle()
    await scene.stage.pass_time(FENCE_RULES.kdump_wait_s + 5)
    assert (await scene.fencing()).steps["kdump"] is StepState.RUNNING
    assert (await scene.host()).power.questioned == 0

    await scene.stage.append(f"host/{scene.lost}", HostKdumpEnded(name=name))
    await scene.stage.settle()

    assert (await scene.host()).proved_off == 0
    await scene.confirm()
    assert len(await scene.orders()) == 1


async def test_a_dump_without_end_is_waited_for_only_so_long() -> None:
    scene = await scenery(kdump=True)
    await scene.fall_silent()
    name = (await scene.host()).name
    await scene.stage.append(f"host/{scene.lost}", HostKdumpStarted(name=name, address="192.0.2.9"))
    await scene.stage.settle()
    await scene.stage.pass_time(FENCE_RULES.kdump_timeout_s)
    await scene.confirm()
    assert len(await scene.orders()) == 1


async def test_without_a_word_of_a_dump_it_goes_on() -> None:
    scene = await scenery(kdump=True)
    await scene.fall_silent()
    assert (await scene.host()).power.questioned == 0
    await scene.stage.pass_time(FENCE_RULES.kdump_wait_s)
    await scene.confirm()
    assert len(await scene.orders()) == 1


# ---------------------------------------------------------------------- takeover


async def test_policies_that_die_at_any_point_are_carried_on_with_one_proof() -> None:
    """given the log up to any append, when new policies go on, then off is proved exactly once"""
    scene = await ordered()
    await scene.answer()
    await scene.answer()
    begun = (await scene.stage.names()).index("host.fencing_begun") + 1
    for cut in await cuts(scene.stage.log, begun):
        stage = await copied(scene.stage, cut)
        await play_on(stage)
        await stage.pass_time(0)
        await play_on(stage)
        names = await stage.names()
        assert names.count("host.fenced_off") == 1, cut
        assert names.count("host.fenced_on") == 1, cut
        assert names.count("host.fence_ordered") == 2, cut
        assert (await stage.vm(scene.vm)).status is VmStatus.DOWN
