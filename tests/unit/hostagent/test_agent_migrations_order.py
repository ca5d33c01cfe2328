"""Source and destination hear of a migration from different engines, one sooner than the other."""

from __future__ import annotations

import asyncio

from events.wire.agent import JobState, VmState
from tests.unit.hostagent.samples import VM
from tests.unit.hostagent.test_agent_migrations import Pair, pair

__all__ = ["pair"]


async def test_a_source_that_hears_of_it_first_is_waited_with(pair: Pair) -> None:
    """given orders that reach the destination later, then it takes the VM in all the same"""
    await pair.start()
    pair.destination.engine.away = True
    await asyncio.sleep(0.05)

    job = pair.order()
    await asyncio.sleep(0.3)
    assert job.id not in pair.source.engine.outcomes
    pair.destination.engine.away = False

    assert (await pair.source.engine.until_outcome(job)).state is JobState.DONE
    await pair.destination.engine.until_state(VM, VmState.RUNNING)
