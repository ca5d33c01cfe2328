"""What hosts sample becomes a reading a minute, and is told to whoever places VMs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import msgspec
import psycopg

from commands.gateway.loads import Averages, LoadKeeper, MemoryLoads
from commands.gateway.placement import Placement
from commands.gateway.view import GatewayView
from commands.scheduler.fleet import Fleet
from commands.scheduler.load import FRESH_MINUTES, Readings
from events.wire.agent import HostSample, Telemetry
from tests.unit.gateway.bench import Bench
from tests.unit.policies.test_fleet import fleet_of, host

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
MINUTE = 1_000


class Clock:
    """Seconds since 1970, in the middle of a minute at first."""

    def __init__(self) -> None:
        self.now = MINUTE * 60.0

    def __call__(self) -> float:
        return self.now


def sample(percent: float, second: float = 0) -> HostSample:
    return HostSample(
        time=NOON + dt.timedelta(seconds=second),
        cpu_percent=percent,
        load=0,
        memory_total_bytes=1,
        memory_used_bytes=1,
        storage_free_bytes=1,
        vms_running=0,
    )


# ----------------------------------------------------------------------------------------- averages
def test_a_reading_is_the_average_of_a_minute_that_is_over() -> None:
    clock = Clock()
    averages = Averages(clock=clock)
    for percent in (10, 20, 60.3):
        averages.heard("a", [sample(percent)])
        clock.now += 15
    averages.heard("b", [sample(250)])
    assert averages.take() == {}
    clock.now += 15
    averages.heard("a", [sample(90)])
    assert averages.take() == {MINUTE: {"a": 301, "b": 1_000}}
    assert averages.take() == {}
    clock.now += 60
    assert averages.take() == {MINUTE + 1: {"a": 900}}


def test_of_what_an_agent_held_back_the_last_minute_counts() -> None:
    clock = Clock()
    averages = Averages(clock=clock)
    averages.heard("a", [sample(100, second) for second in range(0, 600, 15)])
    averages.heard("a", [sample(100, 0), sample(10, 590), sample(30, 600)])
    averages.heard("a", [])
    clock.now += 60
    mean = round((4 * 100 + 10 + 30) / 6 * 10)
    assert averages.take() == {MINUTE: {"a": mean}}


def test_minutes_that_nobody_took_are_told_apart() -> None:
    clock = Clock()
    averages = Averages(clock=clock)
    for percent in (10, 20, 30):
        averages.heard("a", [sample(percent)])
        clock.now += 60
    assert averages.take() == {
        MINUTE: {"a": 100},
        MINUTE + 1: {"a": 200},
        MINUTE + 2: {"a": 300},
    }


# ------------------------------------------------------------------------------------------- keeper
class Away(MemoryLoads):
    """Loads of a database that is away while it is told to be."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    async def prepare(self) -> None:
        self._ask()

    async def store(self, minute: int, permille: Mapping[str, int]) -> None:
        self._ask()
        await super().store(minute, permille)

    async def read(self) -> dict[str, Readings]:
        self._ask()
        return await super().read()

    def _ask(self) -> None:
        if self.away:
            raise psycopg.OperationalError("the database is away")


class Stage:
    """An engine's keeper and a fleet of two hosts."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.loads = Away()
        self.averages = Averages(clock=self.clock)
        self.keeper = LoadKeeper(self.loads, self.averages)
        self.fleet = fleet_of(host(1, cpus=4), host(2, cpus=4))

    async def minute(self, percent: float | None = None) -> None:
        """Let a minute pass in which h1 was this busy, and look."""
        if percent is not None:
            self.averages.heard("h1", [sample(percent)])
        self.clock.now += 60
        await self.keeper.turn(lambda: self.fleet)

    def newest(self, name: str = "h1") -> int | None:
        candidate = self.fleet.candidate(name)
        assert candidate is not None
        return None if candidate.load is None else candidate.load.newest


async def test_what_was_sampled_is_told_to_the_fleet() -> None:
    stage = Stage()
    await stage.minute(70)
    assert (stage.newest(), stage.newest("h2")) == (700, None)
    await stage.minute(20)
    assert stage.newest() == 200
    assert await stage.loads.read() == {"h1": Readings(minute=MINUTE + 1, permille=(200, 700))}


async def test_a_host_that_is_measured_no_more_is_reckoned_after_a_while() -> None:
    stage = Stage()
    await stage.minute(70)
    for _ in range(FRESH_MINUTES):
        await stage.minute()
        assert stage.newest() == 700
    await stage.minute()
    assert stage.newest() is None
    await stage.minute(10)
    assert stage.newest() == 100


async def test_where_the_database_is_away_what_is_known_grows_old() -> None:
    stage = Stage()
    stage.loads.away = True
    await stage.minute(70)
    assert stage.newest() is None
    stage.loads.away = False
    await stage.minute(60)
    await stage.minute()
    assert stage.newest() == 600
    stage.loads.away = True
    for expected in (600, 600, None):
        await stage.minute(50)
        assert stage.newest() == expected
    stage.loads.away = False
    await stage.minute(40)
    assert stage.newest() == 400


async def test_minutes_long_past_are_not_stored_after_a_standstill() -> None:
    stage = Stage()
    stage.averages.heard("h1", [sample(70)])
    stage.clock.now += 600  # the engine was stopped
    await stage.loads.store(MINUTE + 9, {"h1": 100})  # another engine was not
    await stage.keeper.turn(lambda: stage.fleet)
    assert stage.newest() == 100


async def test_dry_runs_know_it_from_the_first() -> None:
    stage, view = Stage(), GatewayView()
    view.hosts["h1"] = host(1, cpus=4)
    placement = Placement(view, stage.keeper)
    stage.averages.heard("h1", [sample(70)])
    stage.clock.now += 60
    await stage.keeper.turn(placement.fleet_in_use)
    assert placement.fleet_in_use() is None  # nobody has asked: nothing is imported for it
    assert _known(placement.current_fleet()) == 700
    stage.averages.heard("h1", [sample(30)])
    stage.clock.now += 60
    await stage.keeper.turn(placement.fleet_in_use)
    assert _known(placement.current_fleet()) == 300


def _known(fleet: Fleet) -> int:
    candidate = fleet.candidate("h1")
    assert candidate is not None
    assert candidate.load is not None
    return candidate.load.newest


async def test_the_gateway_counts_what_hosts_send_of_themselves(bench: Bench) -> None:
    agent, other = await bench.agent("host1"), await bench.agent("host2")
    for host_id, percent in ((agent.host, 40.0), (other.host, 90.0)):
        batch = Telemetry(host=host_id, boot=agent.boot, sequence=1, hosts=(sample(percent),))
        await agent.ask("POST", "/agent/v1/telemetry", content=msgspec.json.encode(batch))
    bench.clock.pass_time(60)
    assert list(bench.engine.averages.take().values()) == [{agent.host: 400}]
