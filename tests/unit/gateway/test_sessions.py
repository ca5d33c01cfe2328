"""Who may speak, and in which session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from commands.host.approve import ApproveHost
from commands.host.maintenance import MaintainHost
from commands.host.refresh import RefreshHost
from commands.host.remove import RemoveHost
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.state.host import HOST, HostStatus
from commands.vm.create import CreateVm
from commands.vm.start import StartVm
from events.log.port import LogReader
from events.types.host import HostSilent
from events.wire.agent import PROTOCOL, HostSample, Telemetry
from tests.unit.gateway.bench import Agent, Answer, Bench, der
from tests.unit.policies.stage import CAPABILITIES, running


async def test_hello_opens_a_session_with_the_whole_intent(bench: Bench) -> None:
    agent = await bench.agent()
    assert agent.welcome is not None
    assert agent.welcome.protocol == PROTOCOL
    assert agent.welcome.intent.vms == ()
    assert agent.welcome.intent.position == await bench.log.head()
    assert bench.engine.view.hosts[agent.host].status is HostStatus.UP


async def test_a_certificate_that_names_no_host_is_not_heard(bench: Bench) -> None:
    agent = await bench.agent()
    server = bench.authority.issue_server(["engine"], [], bench.clock.now)
    agent.certificate = der(server.certificate.decode())
    assert (await agent.say_hello()).status == 403
    assert (await agent.poll()).status == 403


async def test_a_host_is_heard_with_its_newest_certificate_only(bench: Bench) -> None:
    """given a host that joined again, when the old certificate speaks, then it is not heard"""
    agent = await bench.agent()
    await bench.do(MaintainHost(id=agent.host))
    await bench.settle()
    answer = await bench.join(await bench.token(agent.host), "host1", key="second key")
    assert answer.certificate is not None
    head = await bench.log.head()
    assert (await agent.say_hello()).problem == "not-your-host"
    assert (await agent.poll()).problem == "not-your-host"
    assert (await agent.send(agent.next_report())).problem == "not-your-host"
    assert (await samples(agent)).problem == "not-your-host"
    assert await bench.log.head() == head
    agent.certificate = der(answer.certificate)
    assert (await agent.say_hello()).status == 200


async def samples(agent: Agent, host: str | None = None) -> Answer:
    sample = HostSample(
        time=agent.engine.monitor._source().time,
        cpu_percent=1,
        load=1,
        memory_total_bytes=1,
        memory_used_bytes=1,
        storage_free_bytes=1,
        vms_running=0,
    )
    batch = Telemetry(host=host or agent.host, boot=agent.boot, sequence=1, hosts=(sample,))
    return await agent.ask("POST", "/agent/v1/telemetry", content=msgspec.json.encode(batch))


async def test_telemetry_goes_to_the_warehouse_and_never_for_another_host(bench: Bench) -> None:
    agent, other = await bench.agent("host1"), await bench.agent("host2")
    assert (await samples(agent)).status == 202
    assert (await samples(agent, host=other.host)).problem == "not-your-host"
    assert [batch.host for batch in bench.engine.samples.batches] == [agent.host]


async def test_a_removed_host_is_not_heard(bench: Bench) -> None:
    agent = await bench.agent()
    await bench.do(MaintainHost(id=agent.host))
    await bench.settle()
    await bench.do(RemoveHost(id=agent.host))
    for answer in (
        await agent.say_hello(),
        await agent.poll(),
        await agent.send(agent.next_report()),
        await samples(agent),
    ):
        assert answer.problem == "not-your-host"


async def test_an_agent_that_speaks_no_known_protocol_is_told_so(bench: Bench) -> None:
    agent = await bench.agent()
    assert (await agent.say_hello(protocols=(PROTOCOL + 7,))).problem == "unknown-protocol"


async def test_a_second_session_ends_the_first_at_once(bench: Bench) -> None:
    """given a poll that waits, when the same host says hello again, then the poll ends with 409"""
    agent = await bench.agent()
    old = agent.session
    waiting = asyncio.create_task(agent.poll(30, session=old))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    assert (await agent.say_hello()).status == 200
    answer = await asyncio.wait_for(waiting, 15)
    assert answer.status == 409
    assert answer.problem == "session-over"
    assert agent.session != old
    assert (await agent.poll(session=old)).status == 409
    assert (await agent.poll()).status == 204


async def test_two_engines_agree_on_the_newest_session(bench: Bench) -> None:
    """given an engine that has not seen the hello yet, when the agent polls it, then it looks"""
    agent = await bench.agent()
    second = bench.new_engine()
    following = asyncio.create_task(second.follow())
    agent.engine = second
    assert (await agent.poll()).status == 204
    following.cancel()


async def test_a_host_that_was_silent_must_say_hello_and_is_then_up(bench: Bench) -> None:
    agent = await bench.agent()
    waiting = asyncio.create_task(agent.poll(30))
    await asyncio.sleep(0.02)
    await silence(bench, agent.host)
    assert (await asyncio.wait_for(waiting, 15)).status == 409
    assert (await agent.poll()).status == 409
    assert (await agent.send(agent.next_report())).status == 409
    assert bench.engine.view.hosts[agent.host].status is HostStatus.NON_RESPONSIVE
    assert (await agent.say_hello()).status == 200
    assert bench.engine.view.hosts[agent.host].status is HostStatus.UP
    assert (await agent.poll()).status == 204


async def silence(bench: Bench, host: str) -> None:
    silent = HostSilent(name="x", last_contact=bench.clock.now, timeout_s=60)

    def decide(world: World, context: Context) -> Decision:
        world.get(HOST, host)
        return Decision(id=host, events=on(f"host/{host}", silent))

    await bench.handler.handle(decide, bench.source_for("gateway"), principal="gateway")
    await bench.seen()


async def test_boots_that_alternate_are_a_clone_both_refused_with_one_alert(bench: Bench) -> None:
    agent = await bench.agent()
    assert (await agent.say_hello(boot="B")).status == 200
    assert (await agent.poll()).status == 204
    assert (await agent.say_hello(boot=agent.boot)).problem == "cloned-identity"
    for _again in range(2):
        assert (await agent.say_hello(boot="B")).problem == "cloned-identity"
        assert (await agent.say_hello(boot="C")).problem == "cloned-identity"
        assert (await agent.poll()).problem == "cloned-identity"
        assert (await agent.send(agent.next_report())).problem == "cloned-identity"
        assert (await samples(agent)).status == 403
    assert (await bench.names()).count("host.duplicate_refused") == 1
    assert bench.engine.view.hosts[agent.host].status is HostStatus.ERROR
    await bench.do(ApproveHost(id=agent.host))
    assert (await agent.say_hello(boot="B")).status == 200


class Overtaken:
    """A log whose head is asked for while another message comes first."""

    def __init__(self, reader: LogReader, first: Callable[[], Awaitable[object]]) -> None:
        self._reader = reader
        self._first = first

    async def head(self) -> int:
        await self._first()
        return await self._reader.head()


async def test_a_hello_that_another_overtook_is_no_clones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """given a hello read late, after that of the next boot, then a clone must say hello again"""
    agent = await bench.agent()
    gateway, former = bench.engine.gateway, agent.boot
    reader = gateway._reader

    async def next_boot() -> None:
        monkeypatch.setattr(gateway, "_reader", reader)
        assert (await agent.say_hello(boot="B")).status == 200

    monkeypatch.setattr(gateway, "_reader", Overtaken(reader, next_boot))
    assert (await agent.say_hello(boot=former)).problem == "session-over"
    assert "host.duplicate_refused" not in await bench.names()
    assert (await agent.say_hello(boot="B")).status == 200
    assert (await agent.say_hello(boot=former)).problem == "cloned-identity"


async def reboot(agent: Agent, boot: str) -> Answer:
    """Have the machine say hello of another boot: first, and when it is doubted."""
    doubted = await agent.say_hello(boot=boot, doubt="")
    assert (doubted.status, doubted.problem) == (409, "session-over")
    return await agent.say_hello(boot=boot, doubt=doubted.body["doubt"])


async def test_a_hello_of_before_a_reboot_is_no_clones_however_late_it_is_read(
    bench: Bench,
) -> None:
    """given a hello read after the next boot was heard of, then it has to be said again"""
    agent = await bench.agent()
    former = agent.boot
    assert (await reboot(agent, "B")).status == 200
    for doubt in ("", "made up"):
        late = await agent.say_hello(boot=former, doubt=doubt)
        assert (late.status, late.problem) == (409, "session-over")
    assert "host.duplicate_refused" not in await bench.names()
    assert (await agent.poll()).status == 204
    word = late.body["doubt"]

    assert (await agent.say_hello(boot="B", doubt="")).status == 200
    # Said when the former session was the newest: it proves nothing of the time after it.
    assert (await agent.say_hello(boot=former, doubt=word)).problem == "session-over"
    assert "host.duplicate_refused" not in await bench.names()


async def test_a_late_hello_of_a_boot_that_was_never_heard_of_is_not_the_newest(
    bench: Bench,
) -> None:
    """given A, then B that nobody read, then C, when B is read at last, then C is no clone"""
    agent = await bench.agent()
    assert (await reboot(agent, "C")).status == 200
    assert (await agent.say_hello(boot="B", doubt="")).problem == "session-over"
    assert bench.engine.view.hosts[agent.host].boot == "C"
    assert (await agent.poll()).status == 204
    assert (await agent.say_hello(boot="C", doubt="")).status == 200


async def test_a_clone_is_one_that_speaks_again_when_it_is_doubted(bench: Bench) -> None:
    agent = await bench.agent()
    assert (await reboot(agent, "B")).status == 200
    word = (await agent.say_hello(boot=agent.boot, doubt="")).body["doubt"]
    assert agent.session not in word

    assert (await agent.say_hello(boot=agent.boot, doubt=word)).problem == "cloned-identity"
    assert (await bench.names()).count("host.duplicate_refused") == 1


async def test_another_machine_need_not_be_doubted(bench: Bench) -> None:
    agent = await bench.agent()
    answer = await agent.say_hello(hardware="another", doubt="")
    assert answer.problem == "cloned-identity"


async def test_reboots_in_a_row_are_no_clone(bench: Bench) -> None:
    agent = await bench.agent()
    for boot in ("B", "B", "C", "D", "D", "E"):
        assert (await agent.say_hello(boot=boot)).status == 200


async def test_another_machine_under_the_hosts_key_is_refused(bench: Bench) -> None:
    agent = await bench.agent()
    session = agent.session
    assert (await agent.say_hello(hardware="another")).problem == "cloned-identity"
    assert (await agent.poll(session=session)).problem == "cloned-identity"
    assert (await bench.names()).count("host.duplicate_refused") == 1


async def test_a_clone_changes_nothing_about_its_vms(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await bench.do(CreateVm(name="web01", cluster=bench.cluster))
    await bench.do(StartVm(id=vm))
    await bench.settle()
    await agent.report(running(vm))
    await agent.say_hello(hardware="another")
    await bench.settle()
    assert bench.engine.view.vms[vm].may_run_on == (agent.host,)


@pytest.mark.parametrize("query", ["", "after=x", "after=-1", "after=1&wait=nan"])
async def test_a_poll_that_makes_no_sense_is_a_clear_problem(bench: Bench, query: str) -> None:
    agent = await bench.agent()
    answer = await agent.ask("GET", f"/agent/v1/orders?session={agent.session}&{query}")
    assert answer.status == 422
    assert answer.problem == "invalid-field"


@pytest.mark.parametrize("path", ["hello", "report", "telemetry"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"session": 1}'])
async def test_a_body_that_makes_no_sense_is_a_clear_problem(
    bench: Bench, path: str, body: bytes
) -> None:
    agent = await bench.agent()
    answer = await agent.ask("POST", f"/agent/v1/{path}", content=body)
    assert answer.status == 422


async def test_a_host_that_is_asked_says_anew_what_it_can_do(bench: Bench) -> None:
    """given a poll that waits, when a refresh is asked for, then hello brings the news at once"""
    agent = await bench.agent()
    waiting = asyncio.create_task(agent.poll(wait_s=30))
    await asyncio.sleep(0.05)

    await bench.do(RefreshHost(id=agent.host))
    operation = bench.operation
    answer = await asyncio.wait_for(waiting, 15)
    assert (answer.status, answer.problem) == (409, "session-over")
    await bench.settle()
    grown = msgspec.structs.replace(CAPABILITIES, cpus=64)
    assert (await agent.say_hello(capabilities=grown)).status == 200
    await bench.settle()

    names = await bench.names()
    assert names.count("host.refreshed") == 1
    state = bench.engine.view.hosts[agent.host]
    assert state.capabilities is not None
    assert (state.capabilities.cpus, state.refresh) == (64, 0)
    ended = [r for r in await bench.history() if r.name == "operation.ended"]
    assert [(r.object_id, str(r.event.outcome)) for r in ended] == [(operation, "succeeded")]  # type: ignore[attr-defined]
    assert (await agent.poll()).status == 204
