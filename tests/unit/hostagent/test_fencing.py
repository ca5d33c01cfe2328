"""A proxy's agent: what is done with the power of other hosts, and what is said of it."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import msgspec
import pytest

from events.types.host_power import (
    FenceAction,
    FenceAgent,
    FenceOption,
    FenceOrder,
    PowerState,
)
from events.wire.agent import FenceItem
from hostagent import desk as desk_module
from hostagent.journal import JOURNAL_NAME
from hostagent.power import FencePrograms, Told, program_input
from hostagent.records import FenceBegun, Record
from tests.unit.hostagent.conftest import TIMINGS, Host
from tests.unit.hostagent.fake_engine import FakeEngine

SECRET = "plug-and-pray"
WITNESS = "192.0.2.9:54329"


class FakePower:
    """Devices by their addresses: whether each is on, and how each fails."""

    def __init__(self) -> None:
        self.on: dict[str, bool] = {}
        self.deaf: set[str] = set()
        self.stuck: set[str] = set()
        self.alive: set[str] = set()
        self.asked: list[tuple[str, FenceAction]] = []
        self.passwords: set[str] = set()
        self.hold = asyncio.Event()
        self.hold.set()

    def installed(self) -> tuple[str, ...]:
        return ("ipmilan",)

    async def run(self, agent: FenceAgent, action: FenceAction, timeout_s: float) -> Told:
        self.asked.append((agent.address, action))
        self.passwords.add(agent.password)
        await self.hold.wait()
        if agent.address in self.deaf:
            return Told(succeeded=False, detail="no answer")
        if action is FenceAction.STATUS:
            state = PowerState.ON if self.on.get(agent.address, True) else PowerState.OFF
            return Told(succeeded=True, state=state)
        if agent.address not in self.stuck:
            self.on[agent.address] = action is FenceAction.ON
        return Told(succeeded=True)

    async def answers(self, address: str, timeout_s: float) -> bool:
        return address in self.alive

    def count(self, action: FenceAction) -> int:
        return sum(1 for _address, done in self.asked if done is action)


@pytest.fixture
async def power(host: Host) -> FakePower:
    power = FakePower()
    host.power = power
    return power


def agent(name: str = "bmc", address: str = "192.0.2.100") -> FenceAgent:
    return FenceAgent(name=name, type="ipmilan", address=address, password=SECRET)


def order(
    action: FenceAction,
    *agents: FenceAgent,
    key: str = "op/off/1",
    timeout_s: float = 0.5,
    witnesses: tuple[str, ...] = (),
    fault: str = "",
) -> FenceOrder:
    return FenceOrder(
        id=key,
        host="h9",
        action=action,
        agents=agents or (agent(),),
        timeout_s=timeout_s,
        witnesses=witnesses,
        fault=fault,
    )


async def answered(engine: FakeEngine, key: str = "op/off/1") -> FenceItem:
    await engine.until(lambda known: key in known.fenced)
    return engine.fenced[key]


async def test_a_proxy_that_stood_still_before_it_acts_asks_again(
    host: Host, power: FakePower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """given an hour between the note in the journal and the deed, then the host is let be"""
    await host.start()
    await host.engine.until(lambda engine: engine.reports)
    really, write = desk_module.moment, host.agent.desk.journal.write

    async def slowly(*records: Record) -> None:
        await write(*records)
        if any(isinstance(record, FenceBegun) for record in records):
            host.engine.withdraw(off)
            host.engine.away = True
            monkeypatch.setattr(desk_module, "moment", lambda: really() + 3_600)

    monkeypatch.setattr(host.agent.desk.journal, "write", slowly)
    off = host.engine.order_fence(order(FenceAction.OFF))
    await asyncio.sleep(0.3)
    host.engine.away = False
    await asyncio.sleep(0.3)
    assert power.asked == []


async def test_off_is_said_once_the_status_says_so(host: Host, power: FakePower) -> None:
    await host.start()
    host.engine.order_fence(order(FenceAction.OFF))
    item = await answered(host.engine)
    assert (item.state, item.reason) == (PowerState.OFF, "")
    assert power.asked == [
        ("192.0.2.100", FenceAction.OFF),
        ("192.0.2.100", FenceAction.STATUS),
    ]
    assert host.engine.hellos[0].capabilities.fence_agents == ("ipmilan",)


async def test_an_ok_without_the_status_is_not_believed(host: Host, power: FakePower) -> None:
    power.stuck.add("192.0.2.100")
    await host.start()
    host.engine.order_fence(order(FenceAction.OFF))
    item = await answered(host.engine)
    assert item.state is PowerState.UNKNOWN
    assert "bmc says on" in item.reason


async def test_every_agent_of_a_group_must_say_off(host: Host, power: FakePower) -> None:
    power.stuck.add("192.0.2.101")
    both = (agent(), agent("twin", "192.0.2.101"))
    await host.start()
    host.engine.order_fence(order(FenceAction.OFF, *both))
    item = await answered(host.engine)
    assert item.state is PowerState.UNKNOWN
    assert {answer.agent: answer.state for answer in item.answers} == {
        "bmc": PowerState.OFF,
        "twin": PowerState.ON,
    }
    power.stuck.clear()
    host.engine.order_fence(order(FenceAction.OFF, *both, key="op/off/2"))
    assert (await answered(host.engine, "op/off/2")).state is PowerState.OFF


async def test_a_machine_that_answers_is_not_off_whatever_its_bmc_says(
    host: Host, power: FakePower
) -> None:
    power.alive.add(WITNESS)
    await host.start()
    host.engine.order_fence(order(FenceAction.OFF, witnesses=(WITNESS,)))
    item = await answered(host.engine)
    assert item.state is PowerState.UNKNOWN
    assert WITNESS in item.reason
    power.alive.clear()
    host.engine.order_fence(order(FenceAction.STATUS, key="op/status/2", witnesses=(WITNESS,)))
    assert (await answered(host.engine, "op/status/2")).state is PowerState.OFF


async def test_a_deaf_device_is_unknown_and_says_why(host: Host, power: FakePower) -> None:
    power.deaf.add("192.0.2.100")
    await host.start()
    host.engine.order_fence(order(FenceAction.STATUS))
    item = await answered(host.engine)
    assert item.state is PowerState.UNKNOWN
    assert "no answer" in item.reason


async def test_an_order_with_a_fault_touches_nothing(host: Host, power: FakePower) -> None:
    await host.start()
    host.engine.order_fence(order(FenceAction.OFF, fault="The password is gone."))
    item = await answered(host.engine)
    assert (item.state, item.reason) == (PowerState.UNKNOWN, "The password is gone.")
    assert power.asked == []


async def test_what_was_done_is_told_again_and_not_done_again(host: Host, power: FakePower) -> None:
    """given an answer that is lost, when the agent comes back, then it tells what it did"""
    await host.start()
    wanted = host.engine.order_fence(order(FenceAction.OFF))
    await answered(host.engine)
    await host.kill()
    host.engine.fences[wanted.id] = (host.engine.position, wanted)
    told = len(host.engine.items)
    await host.start()
    await host.engine.until(
        lambda engine: any(isinstance(item, FenceItem) for item in engine.items[told:])
    )
    assert power.count(FenceAction.OFF) == 1


async def test_what_was_begun_is_done_again_only_while_it_is_wanted(
    host: Host, power: FakePower
) -> None:
    power.hold.clear()
    await host.start()
    wanted = host.engine.order_fence(order(FenceAction.OFF, timeout_s=5))
    await host.engine.until(lambda _engine: power.asked)
    await host.kill()
    assert power.on.get("192.0.2.100", True)
    power.hold.set()
    host.engine.withdraw(wanted)
    await host.start()
    await host.engine.until(lambda engine: len(engine.hellos) == 2)
    await asyncio.sleep(0.2)
    assert power.count(FenceAction.OFF) == 1

    host.engine.order_fence(order(FenceAction.OFF, key="op/off/2"))
    assert (await answered(host.engine, "op/off/2")).state is PowerState.OFF


async def test_an_agent_that_stood_still_asks_again_before_it_turns_anything_off(
    host: Host, power: FakePower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """given orders that are not fresh, then nothing is begun"""
    slow = msgspec.structs.replace(TIMINGS, request_timeout_s=0.01)
    host.engine.poll_s = 0.02
    await host.start(timings=slow)
    await host.engine.until(lambda engine: engine.hellos)
    desk = host.agent.desk
    host.engine.away = True
    await asyncio.sleep(0.3)
    assert not desk.orders_fresh()
    wanted = order(FenceAction.OFF)
    desk.fences[wanted.id] = wanted
    desk.fences_changed.set()
    await asyncio.sleep(0.2)
    assert power.asked == []


async def test_the_password_is_in_no_journal(host: Host, power: FakePower) -> None:
    await host.start()
    host.engine.order_fence(order(FenceAction.OFF))
    await answered(host.engine)
    assert power.passwords == {SECRET}
    journal = (host.folder / "state" / JOURNAL_NAME).read_text()
    assert "fence_ended" in journal
    assert SECRET not in journal


# ---------------------------------------------------------------------- the programs


def fence_program(folder: Path, script: str, name: str = "fence_ipmilan") -> FencePrograms:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return FencePrograms((folder,))


def test_a_program_is_told_by_lines_and_a_line_end_is_refused() -> None:
    given = msgspec.structs.replace(
        agent(), port=623, username="admin", options=(FenceOption(name="lanplus", value="1"),)
    )
    assert program_input(given, FenceAction.OFF).decode().splitlines() == [
        "action=off",
        "ip=192.0.2.100",
        "ipport=623",
        "username=admin",
        f"password={SECRET}",
        "lanplus=1",
    ]
    with pytest.raises(ValueError, match="line end"):
        program_input(msgspec.structs.replace(given, password="a\nb"), FenceAction.OFF)


async def test_the_password_goes_in_by_the_standard_input_alone(tmp_path: Path) -> None:
    script = f'echo "$0 $*" >{tmp_path}/argv; env >{tmp_path}/env; cat >{tmp_path}/stdin; exit 2'
    told = await fence_program(tmp_path, script).run(agent(), FenceAction.STATUS, 5)
    assert told.state is PowerState.OFF
    assert SECRET in (tmp_path / "stdin").read_text()
    assert SECRET not in (tmp_path / "argv").read_text() + (tmp_path / "env").read_text()
    assert "CHRONOVISOR" not in (tmp_path / "env").read_text()


@pytest.mark.parametrize(
    ("code", "state"), [(0, PowerState.ON), (2, PowerState.OFF), (1, PowerState.UNKNOWN)]
)
async def test_the_exit_code_of_status_is_the_state(
    tmp_path: Path, code: int, state: PowerState
) -> None:
    programs = fence_program(tmp_path, f"cat >/dev/null; exit {code}")
    told = await programs.run(agent(), FenceAction.STATUS, 5)
    assert (told.state, told.succeeded) == (state, code != 1)


async def test_words_of_a_program_are_told_without_the_password(tmp_path: Path) -> None:
    programs = fence_program(tmp_path, "cat; echo refused; exit 1")
    told = await programs.run(agent(), FenceAction.OFF, 5)
    assert not told.succeeded
    assert "refused" in told.detail
    assert SECRET not in told.detail


async def test_a_program_that_hangs_is_ended_with_all_it_began(tmp_path: Path) -> None:
    programs = fence_program(tmp_path, f"sleep 60 & echo $! >{tmp_path}/pid; wait")
    told = await programs.run(agent(), FenceAction.OFF, 0.3)
    assert not told.succeeded
    assert "no answer" in told.detail
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        await asyncio.sleep(0.02)
    pytest.fail("what the program began runs on")


def test_programs_that_cut_no_power_are_not_offered(tmp_path: Path) -> None:
    for name in ("fence_ipmilan", "fence_scsi", "fence_dummy", "fence_kdump"):
        programs = fence_program(tmp_path, "exit 0", name)
    (tmp_path / "fence_notes.txt").write_text("not executable")
    assert programs.installed() == ("ipmilan",)


async def test_a_type_that_is_not_installed_or_cuts_no_power_is_not_run(tmp_path: Path) -> None:
    programs = fence_program(tmp_path, "exit 0", "fence_dummy")
    for kind in ("apc", "dummy", "../../bin/true"):
        given = msgspec.structs.replace(agent(), type=kind)
        assert not (await programs.run(given, FenceAction.OFF, 5)).succeeded


async def test_a_port_that_refuses_is_a_sign_of_life() -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    programs = FencePrograms(())
    assert await programs.answers(f"127.0.0.1:{port}", 1)
    server.close()
    await server.wait_closed()
    assert await programs.answers(f"127.0.0.1:{port}", 1)
    assert not await programs.answers("nonsense", 0.2)
