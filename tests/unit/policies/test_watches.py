"""Watches: what they want is begun once, whatever dies, lags or refuses."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import pytest

from commands.host.maintenance import MaintainHost
from commands.kernel.refusal import Refusal
from commands.policies.facts import Facts
from commands.policies.office import SupersededError
from commands.policies.runner import Runner
from commands.policies.saga import Timeouts
from commands.policies.watch import Beginning, Watch
from commands.state.host import Duty, HostState
from commands.state.operation import OperationState
from tests.unit.policies.stage import Stage

RETRY_S = 30.0


class SilentHosts(Watch):
    """Wants silent hosts in maintenance; and, to try the guards, says so for ever."""

    def __init__(self, _timeouts: Timeouts) -> None:
        self.hosts: dict[str, HostState] = {}
        self.operations: list[tuple[bool, bool]] = []
        self.refusals: list[str] = []

    def host(self, before: HostState | None, after: HostState | None) -> None:
        del before
        if after is not None and after.silent:
            self.hosts[after.id] = after

    def operation(self, before: OperationState | None, after: OperationState | None) -> None:
        self.operations.append((before is None, after is not None and not after.open))

    def due(self, facts: Facts, now: dt.datetime) -> Sequence[Beginning]:
        del facts, now
        return [
            Beginning(
                cause=f"silent/{host.id}/{host.boot}",
                target=f"host/{host.id}",
                decide=MaintainHost(id=host.id).decide,
            )
            for host in self.hosts.values()
        ]

    def refused(self, beginning: Beginning, refusal: Refusal) -> None:
        self.refusals.append(f"{beginning.target}: {refusal.detail}")


@pytest.fixture
def watches() -> list[SilentHosts]:
    return []


@pytest.fixture
async def stage(watches: list[SilentHosts]) -> Stage:
    stage = Stage()

    def make(timeouts: Timeouts) -> SilentHosts:
        watches.append(SilentHosts(timeouts))
        return watches[-1]

    def new_runner(name: str) -> Runner:
        timeouts = Timeouts(launch_s=60, retry_s=RETRY_S)
        return Runner(stage.log, stage.context, timeouts, name, watches=(make,))

    stage.new_runner = new_runner  # type: ignore[method-assign]
    stage.runner = new_runner("first")
    return stage


async def begun(stage: Stage) -> int:
    return sum(
        recorded.name == "operation.started" and recorded.actor.startswith("policy/")
        for recorded in await stage.history()
    )


async def test_what_a_watch_wants_is_begun_once_though_it_says_so_for_ever(
    stage: Stage, watches: list[SilentHosts]
) -> None:
    first, second = await stage.open(2)

    await stage.silence(first)
    for _ in range(5):
        await stage.pass_time(RETRY_S)

    assert await begun(stage) == 1
    assert (await stage.host(first)).duty is Duty.MAINTENANCE
    assert (await stage.host(second)).duty is Duty.ACTIVE
    assert watches[-1].operations == [(True, False), *watches[-1].operations[1:]]
    assert watches[-1].operations[-1] == (False, True)


async def test_a_takeover_begins_nothing_twice_and_learns_of_everything(
    stage: Stage, watches: list[SilentHosts]
) -> None:
    (host,) = await stage.open(1)
    await stage.silence(host)
    zombie = stage.runner

    stage.runner = stage.new_runner("second")
    await stage.runner.begin()
    await stage.pass_time(RETRY_S)

    assert watches[-1] is not watches[0]
    assert watches[-1].hosts.keys() == {host}
    assert await begun(stage) == 1
    with pytest.raises(SupersededError):
        await zombie.turn()


async def test_a_refusal_is_told_and_tried_again_later(
    stage: Stage, watches: list[SilentHosts]
) -> None:
    (host,) = await stage.open(1)
    await stage.do(MaintainHost(id=host))
    watches[-1].hosts[host] = await stage.host(host)

    await stage.settle()
    told = len(watches[-1].refusals)
    await stage.pass_time(RETRY_S)

    assert told == 1
    assert len(watches[-1].refusals) == 2
    assert await begun(stage) == 0
