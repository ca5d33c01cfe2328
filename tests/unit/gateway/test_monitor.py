"""Silence counts only while the gateway could listen (contract D 1)."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping

import pytest

from commands.gateway.contacts import MemoryContacts
from commands.host.maintenance import MaintainHost
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.state.host import HOST, HostStatus
from events.types.base import Event
from events.types.host_failing import HostFailing
from events.types.host_power import HostFencedOff, HostFencedOn
from tests.unit.gateway.bench import PATIENCE, Bench, Engine

LONG_S = PATIENCE.grace_s + PATIENCE.timeout_s


async def listen(bench: Bench, seconds: float, *engines: Engine) -> None:
    """Let time pass as it does for a process that runs."""
    for _ in range(int(seconds / PATIENCE.interval_s)):
        bench.clock.pass_time(PATIENCE.interval_s)
        for engine in engines or (bench.engine,):
            await engine.monitor.look()
    await bench.seen()


def status(bench: Bench, host: str) -> HostStatus:
    return bench.engine.view.hosts[host].status


async def test_a_host_is_silent_after_grace_and_time_out_and_not_before(bench: Bench) -> None:
    agent = await bench.agent()
    await listen(bench, LONG_S - 4)
    assert status(bench, agent.host) is HostStatus.UP
    await listen(bench, 8)
    assert status(bench, agent.host) is HostStatus.NON_RESPONSIVE
    await listen(bench, 100)
    assert (await bench.names()).count("host.silent") == 1


async def test_once_the_grace_is_over_the_time_out_alone_counts(bench: Bench) -> None:
    agent = await bench.agent()
    for _ in range(10):
        await listen(bench, 40)
        assert (await agent.poll()).status == 204
    await listen(bench, PATIENCE.timeout_s - 4)
    assert status(bench, agent.host) is HostStatus.UP
    await listen(bench, 8)
    assert status(bench, agent.host) is HostStatus.NON_RESPONSIVE


async def test_every_word_of_a_host_counts(bench: Bench) -> None:
    agent = await bench.agent()
    for _ in range(10):
        await listen(bench, 50)
        await agent.report()
        await listen(bench, 50)
        await agent.poll()
    assert status(bench, agent.host) is HostStatus.UP


async def test_a_question_that_is_held_is_a_word_when_it_is_asked_alone(bench: Bench) -> None:
    """given a host that dies while its question is held, then the end of the wait is no word"""
    agent = await bench.agent()
    for _ in range(10):
        await listen(bench, 40)
        await agent.poll()
    asking = asyncio.create_task(agent.poll(wait_s=3))
    await asyncio.sleep(0.05)
    await listen(bench, PATIENCE.timeout_s / 2)
    assert not asking.done(), "the machine is too slow for this test"
    assert (await asking).status == 204

    await listen(bench, PATIENCE.timeout_s / 2 + 8)

    assert status(bench, agent.host) is HostStatus.NON_RESPONSIVE


@pytest.mark.parametrize("gap_s", [20, 90, 10_000])
async def test_a_gateway_that_stood_still_begins_anew(bench: Bench, gap_s: float) -> None:
    """given a pause (SIGSTOP), when it goes on, then no host is silent before a new grace"""
    agent = await bench.agent()
    await listen(bench, LONG_S - 10)
    bench.clock.pass_time(gap_s)
    await listen(bench, LONG_S - 10)
    assert status(bench, agent.host) is HostStatus.UP
    await listen(bench, 20)
    assert status(bench, agent.host) is HostStatus.NON_RESPONSIVE


@pytest.mark.parametrize("jump_s", [-86_400, -90, 90, 86_400])
async def test_a_clock_that_jumps_makes_nobody_silent(bench: Bench, jump_s: float) -> None:
    agent = await bench.agent()
    await listen(bench, LONG_S - 10)
    await agent.poll()
    bench.clock.now += dt.timedelta(seconds=jump_s)
    for _ in range(12):
        await listen(bench, 40)
        assert status(bench, agent.host) is HostStatus.UP
        await agent.poll()
    await listen(bench, LONG_S)
    assert status(bench, agent.host) is HostStatus.NON_RESPONSIVE


class FailingContacts(MemoryContacts):
    """A shared table whose database is away for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    async def store(self, heard: Mapping[str, dt.datetime]) -> None:
        await self.read()
        await super().store(heard)

    async def read(self) -> dict[str, dt.datetime]:
        if self.away:
            raise ConnectionError("the database is away")
        return await super().read()


async def test_an_outage_of_the_database_begins_everything_anew(bench: Bench) -> None:
    agent = await bench.agent()
    contacts = FailingContacts()
    bench.engine.monitor._contacts = contacts
    await listen(bench, LONG_S - 10)
    contacts.away = True
    with pytest.raises(ConnectionError):
        await listen(bench, 4)
    bench.engine.monitor._hearing.lost(bench.clock.now)  # as `run` does
    contacts.away = False
    await listen(bench, LONG_S - 10)
    assert status(bench, agent.host) is HostStatus.UP


async def test_what_was_heard_during_an_outage_is_not_lost(bench: Bench) -> None:
    agent = await bench.agent()
    contacts = FailingContacts()
    bench.engine.monitor._contacts = contacts
    contacts.away = True
    await agent.poll()
    with pytest.raises(ConnectionError):
        await bench.engine.monitor.look()
    contacts.away = False
    await bench.engine.monitor.look()
    assert agent.host in await contacts.read()


async def test_a_database_that_forgot_all_contacts_makes_nobody_silent(bench: Bench) -> None:
    """given an unlogged table emptied by a crash, then what this engine heard still counts"""
    agents = [await bench.agent(f"host{n}") for n in range(3)]
    for _ in range(10):
        await listen(bench, 40)
        for agent in agents:
            await agent.poll()
    await listen(bench, 10)
    bench.contacts._heard.clear()
    await listen(bench, 20)
    assert {status(bench, agent.host) for agent in agents} == {HostStatus.UP}


async def test_a_host_that_another_engine_hears_is_not_silent(bench: Bench) -> None:
    agent = await bench.agent()
    other = bench.new_engine()
    await bench.show(other)
    for _ in range(15):
        await listen(bench, 40, other, bench.engine)
        await agent.poll()
    assert status(bench, agent.host) is HostStatus.UP
    assert "host.silent" not in await bench.names()


async def test_a_host_in_maintenance_is_not_watched(bench: Bench) -> None:
    agent = await bench.agent()
    await bench.do(MaintainHost(id=agent.host))
    await bench.settle()
    await listen(bench, LONG_S + 100)
    assert status(bench, agent.host) is HostStatus.MAINTENANCE


async def test_a_hello_that_comes_at_the_last_moment_wins(bench: Bench) -> None:
    """given a host found silent, when it says hello before that is appended, then it is up"""
    agent = await bench.agent()
    await listen(bench, LONG_S - 2)
    monitor = bench.engine.monitor
    original = monitor._silent

    async def greeting_first(host: object, last: dt.datetime) -> None:
        assert (await agent.say_hello()).status == 200
        await original(host, last)  # type: ignore[arg-type]

    monitor._silent = greeting_first  # type: ignore[method-assign]
    await listen(bench, 6)
    assert status(bench, agent.host) is HostStatus.UP
    assert "host.silent" not in await bench.names()


async def test_a_host_on_which_starts_failed_has_rested_after_a_while(bench: Bench) -> None:
    agent = await bench.agent()

    failing = HostFailing(name="h", vms=("1", "2", "3"), told="a, b, c")
    await _append(bench, HOST.stream(agent.host), failing)
    assert status(bench, agent.host) is HostStatus.ERROR

    for _ in range(int(PATIENCE.failing_s / 40)):
        assert status(bench, agent.host) is HostStatus.ERROR
        await listen(bench, 40)
        await agent.poll()
    await listen(bench, 44)
    assert status(bench, agent.host) is HostStatus.UP
    assert (await bench.names()).count("host.recovered") == 1


async def test_a_host_that_comes_back_is_not_silent_to_an_engine_that_did_not_hear_it(
    bench: Bench,
) -> None:
    """given a hello in the log, before the engine that took it has shared the contact"""
    agent = await bench.agent()
    other = bench.new_engine()
    await bench.show(other)
    await listen(bench, LONG_S + 10, other, bench.engine)
    assert status(bench, agent.host) is HostStatus.NON_RESPONSIVE
    await listen(bench, 1_000, other, bench.engine)

    assert (await agent.say_hello()).status == 200
    await bench.seen()
    await bench.show(other)
    await other.monitor.look()

    assert (await bench.names()).count("host.silent") == 1
    await bench.engine.monitor.look()  # which shares what it heard
    await listen(bench, PATIENCE.timeout_s - 4, other, bench.engine)
    assert (await bench.names()).count("host.silent") == 1
    await listen(bench, 10, other, bench.engine)
    assert (await bench.names()).count("host.silent") == 2  # it said nothing more


async def test_a_host_that_was_turned_on_and_does_not_boot_is_told_of_once(bench: Bench) -> None:
    """given a host that is off, turned on, when it says nothing for long, then it is non-responsive
    again; before that, and while the gateway could not listen, it boots
    """
    agent = await bench.agent()
    await listen(bench, LONG_S + 4)
    stream = HOST.stream(agent.host)
    off = HostFencedOff(name="h", order="o1", proxy_name="p", agents=("bmc",))
    await _append(bench, stream, off)
    assert status(bench, agent.host) is HostStatus.DOWN
    await listen(bench, PATIENCE.boot_timeout_s * 2)
    assert status(bench, agent.host) is HostStatus.DOWN

    await _append(bench, stream, HostFencedOn(name="h", order="o2", proxy_name="p"))
    await listen(bench, PATIENCE.boot_timeout_s - 4)
    assert status(bench, agent.host) is HostStatus.REBOOT
    bench.clock.pass_time(90)  # the gateway stood still: it does not know what it missed
    await listen(bench, PATIENCE.boot_timeout_s)
    assert status(bench, agent.host) is HostStatus.REBOOT
    await listen(bench, PATIENCE.grace_s + 4)
    assert status(bench, agent.host) is HostStatus.NON_RESPONSIVE
    await listen(bench, PATIENCE.boot_timeout_s * 2)
    assert (await bench.names()).count("host.boot_overdue") == 1
    assert (await agent.say_hello(boot="another")).status == 200
    await bench.seen()
    assert status(bench, agent.host) is HostStatus.UP


async def test_a_host_that_boots_in_time_is_up(bench: Bench) -> None:
    agent = await bench.agent()
    await listen(bench, LONG_S + 4)
    off = HostFencedOff(name="h", order="o1", proxy_name="p", agents=("bmc",))
    on_again = HostFencedOn(name="h", order="o2", proxy_name="p")
    await _append(bench, HOST.stream(agent.host), off, on_again)
    assert status(bench, agent.host) is HostStatus.REBOOT
    await listen(bench, 100)
    assert (await agent.say_hello(boot="another")).status == 200
    await bench.seen()
    assert status(bench, agent.host) is HostStatus.UP
    await listen(bench, 100)
    assert "host.boot_overdue" not in await bench.names()


async def _append(bench: Bench, stream: str, *events: Event) -> None:
    def decide(world: World, context: Context) -> Decision:
        del context
        assert world.get(HOST, stream.removeprefix("host/")) is not None
        return Decision(id=stream, events=on(stream, *events))

    await bench.engine.handler.handle(decide, bench.source_for("test"), principal="test")
    await bench.seen()
