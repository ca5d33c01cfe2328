"""The test of a host's power believes the host, and never its fence agents, which may lie."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from commands.gateway.fencing import decide_fence
from commands.gateway.sessions import SessionOver, require_session
from commands.host.activate import ActivateHost
from commands.host.power_test_off import TestPowerOff as TryPowerOff
from commands.operation.cancel import CancelOperation
from commands.policies.runner import Runner
from commands.policies.saga import Timeouts
from commands.state.host import HostState
from commands.state.operation import OperationState, StepState
from events.types.host import HostMaintenanceEntered, HostMaintenanceRequested, HostSessionStarted
from events.types.host_power import FenceAction, FenceAgent, FenceOrder, PowerState
from events.types.operation import Outcome
from events.wire.agent import FenceItem
from tests.unit.policies.puppet_power import answer, manage, open_orders
from tests.unit.policies.stage import FENCE_RULES, Stage

RULES = msgspec.structs.replace(FENCE_RULES, listen_s=30, boot_timeout_s=600)
FIRST = FenceAgent(name="left", type="ipmilan", address="192.0.2.100")
TWIN = FenceAgent(name="right", type="ipmilan", address="192.0.2.101")
NEW_BOOT = "another boot"


class Bench:
    """A host in maintenance whose power is tested, and two that may be its proxies."""

    def __init__(self, stage: Stage, hosts: list[str]) -> None:
        self.stage = stage
        self.tested, *self.others = hosts

    async def host(self) -> HostState:
        return await self.stage.host(self.tested)

    async def operation(self) -> OperationState:
        return await self.stage.op()

    async def order(self) -> tuple[str, FenceOrder]:
        """Return the one open order, and its proxy."""
        ((proxy, order),) = [
            (proxy, order)
            for proxy in self.others
            for order in await open_orders(self.stage, proxy)
        ]
        return proxy, order

    async def orders(self) -> list[FenceAction]:
        """Return what was ordered, in its order."""
        return [each.order.action for each in (await self.host()).power.tries]

    async def answer(self, state: PowerState | None = None, reason: str = "") -> None:
        """Have the proxy answer its order, by default with what was wanted."""
        proxy, order = await self.order()
        item = answer(order)
        if state is not None:
            item = FenceItem(order=order.id, host=order.host, state=state, reason=reason)
        await self.stage.report(proxy, item)

    async def hello(self, boot: str | None = None) -> None:
        await self.stage.hello(self.tested, boot)

    async def come_to(self, step: str) -> None:
        """Play on, with a host that does as it is told, until a step runs."""
        moves: dict[str, Callable[[], Awaitable[None]]] = {
            "status": self.answer,
            "heard": self.hello,
            "off": self.answer,
            "silent": lambda: self.stage.pass_time(RULES.listen_s),
            "on": self.answer,
        }
        for name, move in moves.items():
            assert (await self.operation()).steps[name] is StepState.RUNNING
            if name == step:
                return
            await move()
        assert (await self.operation()).steps["back"] is StepState.RUNNING

    async def require_failed(self, *words: str) -> None:
        """Require that the test failed, with a reason that says these words."""
        operation = await self.operation()
        assert operation.outcome is Outcome.FAILED
        for word in words:
            assert word in operation.reason, operation.reason


async def bench(*agents: FenceAgent) -> Bench:
    """Set the stage, and begin the test."""
    stage = Stage()
    hosts = await stage.open(3)
    stage.runner = Runner(stage.log, stage.context, Timeouts(fencing=RULES), "strict")
    await stage.runner.begin()
    name = (await stage.host(hosts[0])).name
    rests = (HostMaintenanceRequested(name=name), HostMaintenanceEntered(name=name))
    await stage.append(f"host/{hosts[0]}", *rests)
    await manage(stage, hosts[0], *agents)
    await stage.do(TryPowerOff(id=hosts[0]))
    await stage.settle()
    return Bench(stage, hosts)


async def test_it_succeeds_once_the_host_is_back_with_another_boot() -> None:
    scene = await bench()
    await scene.come_to("silent")
    assert (await scene.host()).proved_off == 0
    assert await scene.orders() == [FenceAction.STATUS, FenceAction.OFF]

    await scene.stage.pass_time(RULES.listen_s - 1)
    assert await scene.orders() == [FenceAction.STATUS, FenceAction.OFF]
    await scene.stage.pass_time(1)
    assert (await scene.host()).proved_off > 0
    await scene.answer()
    assert (await scene.operation()).open, "that its agents say that it is on shows nothing"
    await scene.hello(NEW_BOOT)

    operation = await scene.operation()
    assert operation.outcome is Outcome.SUCCEEDED
    assert "Off is really off" in operation.reason
    assert "another boot" in operation.reason
    names = await scene.stage.names()
    assert names.count("host.fenced_off") == names.count("host.fenced_on") == 1


async def test_a_host_that_boots_before_its_agents_say_that_it_is_on_is_believed() -> None:
    scene = await bench()
    await scene.come_to("on")
    await scene.hello(NEW_BOOT)
    assert (await scene.operation()).outcome is Outcome.SUCCEEDED


async def test_whoever_still_lives_is_made_to_say_so() -> None:
    """given agents that say off, then any word of the session before has its sender say hello"""
    scene = await bench()
    await scene.come_to("silent")
    state = await scene.host()
    with pytest.raises(SessionOver):
        require_session(state, str(state.session))


async def test_a_host_that_is_heard_after_off_was_said_fails_it() -> None:
    """given a BMC that says off and does nothing, then the test fails, and the host is left on"""
    scene = await bench()
    await scene.come_to("silent")
    await scene.hello()

    assert (await scene.operation()).open
    assert (await scene.operation()).steps["silent"] is StepState.REFUSED
    _proxy, order = await scene.order()
    assert order.action is FenceAction.ON
    await scene.answer()

    await scene.require_failed("Off is not really off", "bmc", "with the boot that it had before")
    assert "host.fenced_off" not in await scene.stage.names()
    assert await scene.orders() == [FenceAction.STATUS, FenceAction.OFF, FenceAction.ON]


async def test_a_host_that_is_heard_before_the_policies_look_fails_it() -> None:
    """given an answer and a hello after it, when policies see both at once, then it is no proof"""
    scene = await bench()
    await scene.come_to("off")
    proxy, order = await scene.order()
    await scene.stage.decide(lambda world, _context: decide_fence(world, proxy, answer(order)))
    state = await scene.host()
    hello = HostSessionStarted(name=state.name, session="s2", boot=str(state.boot), protocol=1)
    await scene.stage.append(f"host/{scene.tested}", hello)
    await scene.stage.settle()
    await scene.answer()
    await scene.require_failed("Off is not really off")


async def test_the_old_boot_is_no_proof_after_it_was_turned_on_either() -> None:
    """given a host that was not heard for a while, when it comes back as it was, then it fails"""
    for step in ("on", "back"):
        scene = await bench()
        await scene.come_to(step)
        await scene.hello()
        if step == "on":
            await scene.answer()
        await scene.require_failed("Off is not really off", "with the boot that it had before")


async def test_a_host_that_boots_though_nobody_turned_it_on_fails_it() -> None:
    scene = await bench()
    await scene.come_to("silent")
    await scene.hello(NEW_BOOT)
    await scene.answer()
    await scene.require_failed("though nobody turned it on")


async def test_a_host_that_says_nothing_more_fails_it() -> None:
    """given agents that say what is wanted, when the host stays silent, then nothing is shown"""
    scene = await bench()
    await scene.come_to("back")
    await scene.stage.pass_time(RULES.boot_timeout_s - 1)
    assert (await scene.operation()).open
    await scene.stage.pass_time(1)
    await scene.require_failed("not shown that off is really off", "600 s", "console")


async def test_a_host_that_is_off_already_is_not_tested() -> None:
    scene = await bench()
    await scene.answer(PowerState.OFF)
    await scene.require_failed("off already", "host power start")
    assert await scene.orders() == [FenceAction.STATUS]


async def test_a_host_that_is_not_heard_is_not_turned_off() -> None:
    """given a host that says nothing before the test, then its silence would show nothing"""
    scene = await bench()
    await scene.come_to("heard")
    await scene.stage.pass_time(60)
    await scene.require_failed("Nothing is heard of the host")
    assert await scene.orders() == [FenceAction.STATUS]


async def test_agents_that_do_not_answer_are_told_and_nothing_is_turned_off() -> None:
    scene = await bench()
    for _proxy in range(2):
        await scene.answer(PowerState.UNKNOWN, "bmc says unknown.")
    await scene.require_failed("bmc says unknown")
    assert await scene.orders() == [FenceAction.STATUS, FenceAction.STATUS]


async def test_what_could_not_be_turned_off_for_certain_is_turned_on_again() -> None:
    """given two supplies of which one did as it was told, then the other's failure is told"""
    scene = await bench(FIRST, TWIN)
    await scene.come_to("off")
    for _try in range(2):
        _proxy, order = await scene.order()
        assert {agent.name for agent in order.agents} == {"left", "right"}
        await scene.answer(PowerState.UNKNOWN, "left says off; right says on.")
    assert (await scene.operation()).open
    _proxy, order = await scene.order()
    assert order.action is FenceAction.ON
    await scene.answer()
    await scene.require_failed("left says off; right says on")


async def test_a_host_that_cannot_be_turned_on_again_is_told() -> None:
    scene = await bench()
    await scene.come_to("on")
    for _proxy in range(2):
        await scene.answer(PowerState.UNKNOWN, "bmc says unknown.")
    await scene.require_failed("could not be turned on again", "bmc says unknown")


async def test_a_host_that_is_in_service_again_is_not_turned_off() -> None:
    scene = await bench()
    await scene.come_to("off")
    await scene.stage.do(ActivateHost(id=scene.tested))
    operation = (await scene.host()).power.tries[-1].order.id.partition("/")[0]
    await scene.stage.settle()
    ended = await scene.stage.op(operation)
    assert ended.outcome is Outcome.FAILED
    assert "up meanwhile" in ended.reason
    assert await open_orders(scene.stage, scene.others[0]) == []


@pytest.mark.parametrize("step", ["heard", "silent", "on"])
async def test_a_cancelled_test_says_what_the_host_may_be(step: str) -> None:
    scene = await bench()
    await scene.come_to(step)
    operation = await scene.operation()
    await scene.stage.do(CancelOperation(id=operation.id))
    await scene.stage.settle()
    ended = await scene.stage.op(operation.id)
    assert ended.outcome is Outcome.CANCELLED
    assert ("host power start" in ended.reason) == (step != "heard")
