"""What an installation has from the start: a data center, a cluster and a MAC pool, all Default."""

from __future__ import annotations

import uuid
from typing import TypeVar

import msgspec

from chronovisor.contexts import small_context
from commands.cluster.create import CreateCluster
from commands.data_center.create import CreateDataCenter
from commands.kernel.command import Command, Context, Decision
from commands.kernel.fold import Fold, World
from commands.kernel.handler import Handler
from commands.kernel.refusal import Refusal
from commands.mac_pool.create import CreateMacPool
from commands.state.cluster import CLUSTER
from commands.state.data_center import DATA_CENTER
from commands.state.mac_input import MacRangeInput
from commands.state.mac_pool import MAC_POOL
from events.types.mac_pool import DEFAULT_POOL, DEFAULT_RANGES

State = TypeVar("State")
NAME = "Default"
ACTOR = "setup"


async def ensure_defaults(handler: Handler, log_id: uuid.UUID) -> None:
    """Make them once in the life of a log: whoever removes them does not get them back.

    Their ids follow from the log's, so that it is known whether they were ever made; the MAC pool's
    is the same everywhere, since it cannot be removed.
    """
    ranges = tuple(MacRangeInput(first=each.first, last=each.last) for each in DEFAULT_RANGES)
    await _once(handler, MAC_POOL, DEFAULT_POOL, CreateMacPool(name=NAME, ranges=ranges))
    data_center = str(uuid.uuid5(log_id, "default data center"))
    cluster = str(uuid.uuid5(log_id, "default cluster"))
    await _once(handler, DATA_CENTER, data_center, CreateDataCenter(name=NAME))
    await _once(handler, CLUSTER, cluster, CreateCluster(name=NAME, data_center=data_center))


async def _once(handler: Handler, fold: Fold[State], object_id: str, command: Command) -> None:
    context = msgspec.structs.replace(small_context(ACTOR), ids=(object_id,))

    def decide(world: World, context: Context) -> Decision:
        if world.get(fold, object_id) is not None:
            return Decision(id=object_id)
        return command.decide(world, context)

    try:
        await handler.handle(decide, lambda: context, principal=ACTOR)
    except Refusal:
        # An admin has an object of that name, or has removed the data center: leave it so.
        return
