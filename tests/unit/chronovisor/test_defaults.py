"""What an installation has from the start, also one that was set up by an earlier release."""

from __future__ import annotations

import uuid

from chronovisor.contexts import small_context
from chronovisor.defaults import ensure_defaults
from commands.kernel.handler import Handler
from commands.mac_pool.create import CreateMacPool
from commands.mac_pool.update import UpdateMacPool
from commands.state.mac_input import MacRangeInput
from events.codec import CODEC
from events.log.memory import MemoryLog
from events.types.cluster import ClusterCreated
from events.types.data_center import DataCenterCreated
from events.types.mac_pool import DEFAULT_POOL, MacPoolCreated

LOG = uuid.UUID(int=7)


async def names(log: MemoryLog) -> list[str]:
    return [CODEC.decode(stored).name for stored in await log.read(0, 100)]


async def test_all_of_it_is_made_once() -> None:
    log = MemoryLog()
    handler = Handler(log)
    for _ in range(2):
        await ensure_defaults(handler, LOG)
    assert sorted(await names(log)) == [
        "cluster.created",
        "data_center.created",
        "mac_pool.created",
    ]
    events = [CODEC.decode(stored) for stored in await log.read(0, 100)]
    (pool,) = [one for one in events if isinstance(one.event, MacPoolCreated)]
    assert pool.object_id == DEFAULT_POOL
    (cluster,) = [one.event for one in events if isinstance(one.event, ClusterCreated)]
    assert cluster.mac_pool is None
    assert [one for one in events if isinstance(one.event, DataCenterCreated)]


async def test_a_pool_that_an_admin_changed_stays_as_it_is() -> None:
    log = MemoryLog()
    handler = Handler(log)
    await ensure_defaults(handler, LOG)
    wanted = (MacRangeInput(first="02:00:00:00:00:00", last="02:00:00:00:00:ff"),)
    change = UpdateMacPool(id=DEFAULT_POOL, ranges=wanted)
    await handler.handle(change.decide, lambda: small_context("admin:test"), principal="admin")
    before = await names(log)
    await ensure_defaults(handler, LOG)
    assert await names(log) == before


async def test_a_name_that_is_taken_keeps_nothing_from_starting() -> None:
    # given an installation from before there were pools, whose admin has made one named Default
    log = MemoryLog()
    handler = Handler(log)
    ranges = (MacRangeInput(first="02:00:00:00:00:00", last="02:00:00:00:00:ff"),)
    own = CreateMacPool(name="Default", ranges=ranges)
    await handler.handle(own.decide, lambda: small_context("admin:test"), principal="admin")

    await ensure_defaults(handler, LOG)

    assert (await names(log)).count("mac_pool.created") == 1
    assert "cluster.created" in await names(log)
