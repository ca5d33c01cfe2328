"""`POST /v1/vms/{id}/placement`: a dry run of the scheduler."""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from access.principals import Principal
from access.rights import allowed
from commands.api.problems import NotAllowed, NotJson, Unavailable
from commands.api.requests import headers_of, read_body, require_no_parameters
from commands.gateway.placement import Placement
from commands.kernel.fold import Fold
from commands.kernel.refusal import NotFound
from commands.state.affinity import AFFINITY_GROUP, AFFINITY_LABEL, resolve
from commands.state.cluster import CLUSTER, ClusterState
from commands.state.scheduling_policy import SCHEDULING_POLICY, resolved
from events.codec import CODEC
from events.log.port import LogReader

PATH = "/v1/vms/{id}/placement"
RIGHT = "RUN_VM"
CATCH_UP_S = 2.0
_LOOK_S = 0.01
_encoder = msgspec.json.Encoder()
State = TypeVar("State")


async def answer(
    request: Request, principal: Principal, placement: Placement, reader: LogReader
) -> Response:
    """Answer a dry run, as of the log's head when it was asked."""
    vm = request.path_params["id"]
    if not allowed(principal, RIGHT, vm):
        raise NotAllowed(
            f"{principal.actor} has no right {RIGHT} here.", remedy="Ask an admin for it."
        )
    require_no_parameters(request.scope)
    body = await read_body(headers_of(request.scope), request.receive)
    if bytes(body).strip() not in {b"", b"{}"}:
        raise NotJson("A dry run takes no fields.", remedy="Send no body, or {}.")
    await caught_up(placement, reader)
    cluster = await cluster_of(reader, placement.cluster_of(vm))
    await learn_affinity(placement, reader, cluster)
    found = placement.dry_run(vm, cluster)
    return Response(
        _encoder.encode(found),
        media_type="application/json",
        headers={"Chronovisor-Position": str(found.position), "Cache-Control": "no-store"},
    )


async def caught_up(placement: Placement, reader: LogReader) -> None:
    """Wait until the view has what was in the log when it was asked; raises Unavailable."""
    head = await reader.head()
    deadline = time.monotonic() + CATCH_UP_S
    while placement.position < head:
        if time.monotonic() > deadline:
            raise Unavailable(
                "The engine has not yet read the newest part of the log.",
                remedy="Try again in a moment.",
            )
        await asyncio.sleep(_LOOK_S)


async def cluster_of(reader: LogReader, cluster_id: str) -> ClusterState:
    """Return a cluster as of the log's head, as its scheduling policy has it; raises NotFound."""
    state: ClusterState | None = None
    for stored in await reader.load(CLUSTER.stream(cluster_id)):
        state = CLUSTER.evolve(state, CODEC.decode(stored))
    if state is None or state.removed:
        raise NotFound("The cluster is not there.")
    custom = state.scheduling.custom
    if custom is None:
        return state
    policies = await _folded(reader, SCHEDULING_POLICY, [SCHEDULING_POLICY.stream(custom)])
    return resolved(state, policies.get(custom))


async def learn_affinity(placement: Placement, reader: LogReader, cluster: ClusterState) -> None:
    """Tell dry runs of a cluster's affinity groups as of the log's head."""
    streams = [AFFINITY_GROUP.stream(key) for key in cluster.affinity_groups]
    groups = await _folded(reader, AFFINITY_GROUP, streams)
    wanted = {label for group in groups.values() for label in group.affinity.labels}
    labels = await _folded(reader, AFFINITY_LABEL, [AFFINITY_LABEL.stream(key) for key in wanted])
    placement.group(cluster.id, [resolve(group, labels) for group in groups.values()])


async def _folded(reader: LogReader, fold: Fold[State], streams: list[str]) -> dict[str, State]:
    """Return the states of streams, by the objects' ids."""
    found: dict[str, State] = {}
    if not streams:
        return found
    for stored in (await reader.load_many(dict.fromkeys(streams, 0))).values():
        for one in stored:
            recorded = CODEC.decode(one)
            state = fold.evolve(found.get(recorded.object_id), recorded)
            if state is not None:
                found[recorded.object_id] = state
    return found
