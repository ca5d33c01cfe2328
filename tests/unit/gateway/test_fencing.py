"""Fencing at the gateway: fresh orders with their passwords, answers, silences, kernel dumps."""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Mapping

import msgspec
import pytest

from commands.gateway.fencing import FRESH_S
from commands.gateway.kdump import MAGIC, KdumpListener, KdumpPlace
from commands.gateway.vault_keeper import VaultKeeper
from commands.host.add_fence_agent import AddFenceAgent
from commands.host.configure_power import ConfigurePower
from commands.host.remove_fence_agent import RemoveFenceAgent
from commands.kernel.command import Decision, on
from commands.state.host import HOST, HostState
from events.types.base import Event
from events.types.host import HostSilent
from events.types.host_power import (
    FenceAction,
    FenceOrder,
    HostFenceAnswered,
    HostFenceOrdered,
    HostFenceWithdrawn,
    HostSilenceQuestioned,
    PowerState,
)
from events.wire.agent import FenceItem, Orders
from tests.unit.gateway.bench import PATIENCE, Agent, Bench, Engine

SECRET = "plug-and-pray"
LONG_S = PATIENCE.grace_s + PATIENCE.timeout_s


async def tell(bench: Bench, host: str, *events: Event) -> None:
    """Append events to a host's stream."""

    def decide(world: object, context: object) -> Decision:
        world.get(HOST, host)  # type: ignore[attr-defined]
        return Decision(id=host, events=on(f"host/{host}", *events))

    await bench.handler.handle(decide, bench.source_for("test"), principal="test")
    await bench.seen()


async def pair(bench: Bench) -> tuple[Agent, Agent]:
    """Return a host with power management, and one that is its proxy."""
    lost, proxy = await bench.agent("lost"), await bench.agent("proxy")
    reference = await bench.vault.put(SECRET)
    await bench.do(
        AddFenceAgent(
            id=lost.host, agent="bmc", type="ipmilan", address="192.0.2.9", password=reference
        )
    )
    await bench.do(ConfigurePower(id=lost.host, enabled=True, kdump_detection=True))
    await bench.seen()
    return lost, proxy


def state(bench: Bench, host: str) -> HostState:
    return bench.engine.view.hosts[host]


async def order(bench: Bench, lost: Agent, proxy: Agent, key: str = "op/off/1") -> FenceOrder:
    """Order a proxy to turn a host off."""
    agents = state(bench, lost.host).power.agents
    ordered = FenceOrder(
        id=key, host=lost.host, action=FenceAction.OFF, agents=agents, timeout_s=60
    )
    await tell(
        bench,
        lost.host,
        HostFenceOrdered(name="lost", order=ordered, proxy=proxy.host, proxy_name="proxy"),
    )
    return ordered


# ---------------------------------------------------------------------- orders


async def test_an_order_reaches_its_proxy_alone_with_the_password_put_in(bench: Bench) -> None:
    lost, proxy = await pair(bench)
    await order(bench, lost, proxy)
    changes = await proxy.changes()
    assert isinstance(changes, Orders)
    (got,) = changes.changes.fences
    assert got.agents[0].password == SECRET
    others = await lost.changes()
    assert others is None or others.changes.fences == ()
    text = b"".join(msgspec.json.encode(each.event) for each in await bench.history())
    assert SECRET.encode() not in text
    assert b"vault/" in text
    assert (await proxy.say_hello()).status == 200
    assert proxy.welcome is not None
    assert [each.id for each in proxy.welcome.intent.fences] == ["op/off/1"]


async def test_a_password_that_is_forgotten_is_a_fault_of_the_order(bench: Bench) -> None:
    lost, proxy = await pair(bench)
    bench.vault.secrets.clear()
    await order(bench, lost, proxy)
    changes = await proxy.changes()
    assert changes is not None
    (got,) = changes.changes.fences
    assert "vault" in got.fault
    assert got.agents[0].password == ""


async def test_an_order_that_is_old_is_not_handed_out(bench: Bench) -> None:
    """given an engine that stood still with an order, then nobody is turned off by it"""
    lost, proxy = await pair(bench)
    await order(bench, lost, proxy)
    bench.clock.pass_time(FRESH_S + 1)
    changes = await proxy.changes()
    assert changes is None or changes.changes.fences == ()
    assert (await proxy.say_hello()).status == 200
    assert proxy.welcome is not None
    assert proxy.welcome.intent.fences == ()


async def test_an_answer_becomes_an_event_once_and_from_the_proxy_alone(bench: Bench) -> None:
    lost, proxy = await pair(bench)
    ordered = await order(bench, lost, proxy)
    item = FenceItem(order=ordered.id, host=lost.host, state=PowerState.OFF)
    await lost.report(item)
    assert "host.fence_answered" not in await bench.names()
    await proxy.report(item)
    await proxy.report(item)
    await bench.seen()
    found = [e.event for e in await bench.history() if isinstance(e.event, HostFenceAnswered)]
    assert [(each.state, each.action) for each in found] == [(PowerState.OFF, FenceAction.OFF)]
    assert state(bench, lost.host).proved_off == 0  # that is for the policy to say


async def test_a_withdrawn_order_is_taken_from_the_proxy(bench: Bench) -> None:
    lost, proxy = await pair(bench)
    ordered = await order(bench, lost, proxy)
    first = await proxy.changes()
    assert first is not None
    await tell(
        bench,
        lost.host,
        HostFenceWithdrawn(name="lost", order=ordered.id, proxy=proxy.host, reason="late"),
    )
    second = await proxy.changes(after=first.changes.position)
    assert second is not None
    assert ordered.id in second.changes.jobs_withdrawn
    await proxy.report(FenceItem(order=ordered.id, host=lost.host, state=PowerState.OFF))
    assert "host.fence_answered" not in await bench.names()


# ---------------------------------------------------------------------- silences


async def listen(bench: Bench, seconds: float, *engines: Engine) -> None:
    for _ in range(int(seconds / PATIENCE.interval_s)):
        bench.clock.pass_time(PATIENCE.interval_s)
        for engine in engines or (bench.engine,):
            await engine.monitor.look()
    await bench.seen()


async def questioned(bench: Bench) -> Agent:
    """Return a host that was found silent, and whose silence is in question."""
    agent = await bench.agent()
    await listen(bench, LONG_S + 10)
    assert state(bench, agent.host).silent
    await tell(bench, agent.host, HostSilenceQuestioned(name=agent.name))
    return agent


async def test_who_listened_for_the_whole_time_confirms_a_silence(bench: Bench) -> None:
    await questioned(bench)
    await listen(bench, 2)
    await listen(bench, 20)
    assert (await bench.names()).count("host.silence_confirmed") == 1


async def test_who_stood_still_confirms_nothing_before_a_new_grace(bench: Bench) -> None:
    await questioned(bench)
    bench.clock.pass_time(900)
    await listen(bench, LONG_S - 10)
    assert "host.silence_confirmed" not in await bench.names()
    await listen(bench, 20)
    assert "host.silence_confirmed" in await bench.names()


async def test_an_engine_that_was_just_started_confirms_nothing(bench: Bench) -> None:
    await questioned(bench)
    fresh = bench.new_engine()
    await bench.show(fresh)
    await listen(bench, LONG_S - 10, fresh)
    assert "host.silence_confirmed" not in await bench.names()


async def test_nobody_confirms_the_silence_of_who_answers(bench: Bench) -> None:
    agent = await questioned(bench)
    assert (await agent.say_hello()).status == 200
    await bench.seen()
    await listen(bench, 20)
    assert "host.silence_confirmed" not in await bench.names()


async def test_hosts_of_an_engine_that_stands_still_are_not_silent(bench: Bench) -> None:
    """given two engines, when the one that a host spoke to stops, then the other begins anew"""
    agent = await bench.agent()
    other = bench.new_engine()
    await bench.show(other)
    for _ in range(10):
        await listen(bench, 40, other, bench.engine)
        await agent.poll()
    await listen(bench, 2, other, bench.engine)

    await listen(bench, LONG_S - 20, other)

    assert "host.silent" not in await bench.names()
    await listen(bench, 60, other)
    assert "host.silent" in await bench.names()


# ---------------------------------------------------------------------- kernel dumps


class Dumps:
    """A listener, and the clock that it goes by."""

    def __init__(self, bench: Bench) -> None:
        self.now_s = 1_000.0
        self.listener = KdumpListener(
            bench.handler,
            bench.engine.view,
            bench.contacts,
            bench.source_for("gateway"),
            KdumpPlace(host="127.0.0.1", port=0, ended_after_s=60),
            lambda: self.now_s,
        )

    async def look(self, bench: Bench) -> None:
        await self.listener.look()
        await bench.seen()


async def fall_silent(bench: Bench, host: Agent) -> None:
    last = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    await tell(bench, host.host, HostSilent(name=host.name, last_contact=last, timeout_s=60))


MESSAGE = struct.pack("<II", MAGIC, 1)
ADDRESS = "192.0.2.1"
"""Where the hosts of this bench say that they take VMs in."""


@pytest.mark.parametrize("order_", ["<", ">"])
async def test_a_dump_begins_with_a_message_and_ends_with_the_last(
    bench: Bench, order_: str
) -> None:
    lost, _proxy = await pair(bench)
    await fall_silent(bench, lost)
    dumps = Dumps(bench)
    message = struct.pack(f"{order_}II", MAGIC, 1)
    for _ in range(5):
        dumps.listener.message(message, ADDRESS)
        dumps.now_s += 20
        bench.clock.pass_time(20)
        await dumps.look(bench)
        assert state(bench, lost.host).power.kdumping
    dumps.now_s += 61
    await dumps.look(bench)
    assert not state(bench, lost.host).power.kdumping
    names = await bench.names()
    # Both hosts of this bench say that they take VMs in there; one looks for dumps.
    assert (names.count("host.kdump_started"), names.count("host.kdump_ended")) == (1, 1)


async def test_a_host_that_is_heard_writes_no_dump_whoever_says_so(bench: Bench) -> None:
    """given messages in the name of a host that is up, then nothing is recorded or shown"""
    lost, _proxy = await pair(bench)
    dumps = Dumps(bench)
    for _ in range(3):
        dumps.listener.message(MESSAGE, ADDRESS)
        await dumps.look(bench)
    assert "host.kdump_started" not in await bench.names()
    await fall_silent(bench, lost)  # and one that crashed a moment ago counts once it is silent
    await dumps.look(bench)
    assert state(bench, lost.host).power.kdumping


async def test_an_engine_that_no_message_reaches_ends_no_dump_that_another_hears_of(
    bench: Bench,
) -> None:
    lost, _proxy = await pair(bench)
    await fall_silent(bench, lost)
    hears, deaf = Dumps(bench), Dumps(bench)
    for _ in range(20):
        hears.listener.message(MESSAGE, ADDRESS)
        for each in (hears, deaf):
            each.now_s += 10
            await each.look(bench)
        bench.clock.pass_time(10)
        assert state(bench, lost.host).power.kdumping
    del hears  # it dies, and with it what it heard; so nobody hears that the dump goes on
    for _ in range(5):
        deaf.now_s += 10
        await deaf.look(bench)
        assert state(bench, lost.host).power.kdumping
    deaf.now_s += 21
    await deaf.look(bench)
    assert not state(bench, lost.host).power.kdumping


@pytest.mark.parametrize(
    ("data", "address"),
    [
        (b"", "192.0.2.1"),
        (b"x" * 8, "192.0.2.1"),
        (struct.pack("<II", MAGIC, 2), "192.0.2.1"),
        (struct.pack("<II", MAGIC, 1), "192.0.2.77"),
    ],
)
async def test_what_is_no_message_of_a_host_is_nothing(
    bench: Bench, data: bytes, address: str
) -> None:
    lost, _proxy = await pair(bench)
    await fall_silent(bench, lost)
    dumps = Dumps(bench)
    dumps.listener.message(data, address)
    await dumps.look(bench)
    assert "host.kdump_started" not in await bench.names()


async def test_messages_of_many_addresses_fill_no_memory(bench: Bench) -> None:
    dumps = Dumps(bench)
    for number in range(10_000):
        dumps.listener.message(
            struct.pack("<II", MAGIC, 1), f"198.18.{number // 256}.{number % 256}"
        )
    assert len(dumps.listener._heard) <= 4_096


async def test_a_dump_is_over_when_the_host_says_hello(bench: Bench) -> None:
    lost, _proxy = await pair(bench)
    await fall_silent(bench, lost)
    dumps = Dumps(bench)
    dumps.listener.message(MESSAGE, ADDRESS)
    await dumps.look(bench)
    assert state(bench, lost.host).power.kdumping
    assert (await lost.say_hello()).status == 200
    await bench.seen()
    assert not state(bench, lost.host).power.kdumping
    await dumps.look(bench)
    assert not state(bench, lost.host).power.kdumping


# ---------------------------------------------------------------------- the vault's keeper


class Head:
    """A log of which only the head is asked for."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def head(self) -> int:
        return await self._bench.log.head()


async def test_a_password_is_forgotten_once_nothing_refers_to_it(bench: Bench) -> None:
    lost, _proxy = await pair(bench)
    orphan = await bench.vault.put("left over by a crash")
    keeper = VaultKeeper(bench.vault, bench.engine.view, Head(bench))  # type: ignore[arg-type]
    assert await keeper.sweep(young_s=60) == 0
    assert await keeper.sweep(young_s=-1) == 1
    assert orphan not in bench.vault.secrets
    kept: Mapping[str, object] = bench.vault.secrets
    assert len(kept) == 1
    await bench.do(RemoveFenceAgent(id=lost.host, agent="bmc"))
    await bench.seen()
    assert await keeper.sweep(young_s=-1) == 1
    assert bench.vault.secrets == {}
