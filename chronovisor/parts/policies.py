"""The policies' process: the runner, and a lock so that a standby waits instead of contending."""

from __future__ import annotations

import asyncio

import psycopg
import structlog

from chronovisor.contexts import small_context
from chronovisor.fencing import fence_rules
from chronovisor.heartbeat import Heartbeat, Pulse
from chronovisor.installation import Installation
from chronovisor.leadership import lead
from chronovisor.parts.common import opened_pool
from chronovisor.running import together
from chronovisor.settings import Evacuation, Restarts
from commands.gateway.loads import MINUTE_S, Averages, LoadKeeper, PostgresLoads
from commands.policies.office import SupersededError
from commands.policies.runner import Runner, new_process_name
from commands.policies.saga import BalanceRules, EvacuationRules, RestartRules, Timeouts
from commands.scheduler.fleet import Fleet
from events.log.postgres import PostgresLog

log = structlog.get_logger(__name__)
_PLACE = "chronovisor policies"
_STANDBY_S = 1.0


async def run(installation: Installation, stop: asyncio.Event) -> None:
    """Run the policies until `stop`; as a standby while another process has them."""
    scale = installation.settings.time_scale
    policies = installation.settings.policies
    timeouts = Timeouts(
        launch_s=policies.launch_timeout_s * scale,
        retry_s=policies.retry_s * scale,
        restarts=restart_rules(installation.settings.restarts, scale),
        evacuation=_evacuation_rules(installation.settings.evacuation, scale),
        fencing=fence_rules(installation.settings.fencing, scale),
        balance=_balance_rules(scale),
    )
    state = _State()
    beat = Heartbeat(installation.dsn(), "policies", state.pulse)
    await together(
        stop, beat.run(), _work(installation, timeouts, state), _measure(installation, state)
    )


def _balance_rules(scale: float) -> BalanceRules:
    rules = BalanceRules()
    return BalanceRules(
        scale=scale, reservation_s=rules.reservation_s * scale, turn_s=rules.turn_s * scale
    )


def restart_rules(settings: Restarts, scale: float) -> RestartRules:
    """Return how VMs are started by themselves, with all times scaled."""
    return RestartRules(
        short_interval_s=settings.short_interval_s * scale,
        short_tries=settings.short_tries,
        long_interval_s=settings.long_interval_s * scale,
        well_s=settings.well_s * scale,
        starts_per_host=settings.starts_per_host,
        shutting_down_s=settings.shutting_down_s * scale,
        turn_s=RestartRules().turn_s * scale,
    )


def _evacuation_rules(settings: Evacuation, scale: float) -> EvacuationRules:
    return EvacuationRules(
        attempts_max=settings.attempts_max,
        retry_s=settings.retry_s * scale,
        shutdown_s=settings.shutdown_timeout_s,  # the guest's own pace, which no scale changes
    )


class _State:
    def __init__(self) -> None:
        self.runner: Runner | None = None

    def fleet(self) -> Fleet | None:
        return self.runner.fleet if self.runner is not None else None

    def pulse(self) -> Pulse:
        if self.runner is None:
            return Pulse(state="standby")
        return Pulse(position=self.runner.position, detail=f"{self.runner.waiting} operations")


async def _measure(installation: Installation, state: _State) -> None:
    """Let placements know how busy hosts are measured to be; a database that is away is no harm."""
    minute_s = MINUTE_S * installation.settings.time_scale
    async with opened_pool(installation, 1) as pool:
        keeper = LoadKeeper(PostgresLoads(pool), Averages(minute_s=minute_s), minute_s=minute_s)
        await keeper.run(state.fleet)


async def _work(installation: Installation, timeouts: Timeouts, state: _State) -> None:
    scale = installation.settings.time_scale
    async with PostgresLog.open(installation.dsn()) as events:

        async def work() -> None:
            state.runner = Runner(events, small_context, timeouts, new_process_name())
            await state.runner.run()

        while True:
            try:
                # The lock only avoids contention; the fence is in the log.
                await lead(installation.dsn(), _PLACE, work, time_scale=scale)
            except SupersededError as error:
                log.warning("superseded", reason=str(error))
            except (psycopg.Error, OSError) as error:
                log.warning("the policies' lock is lost", reason=str(error))
            state.runner = None
            await asyncio.sleep(_STANDBY_S * scale)
