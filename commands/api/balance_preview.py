"""`POST /v1/clusters/{id}/balance/preview`: which VMs would be moved to balance a cluster."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from access.principals import Principal
from access.rights import allowed
from commands.api.placement import caught_up, cluster_of, learn_affinity
from commands.api.problems import NotAllowed, NotJson
from commands.api.requests import headers_of, read_body, require_no_parameters
from commands.gateway.balance_preview import preview
from commands.gateway.placement import Placement
from events.log.port import LogReader

PATH = "/v1/clusters/{id}/balance/preview"
RIGHT = "EDIT_CLUSTER_CONFIGURATION"
_encoder = msgspec.json.Encoder()


async def answer(
    request: Request, principal: Principal, placement: Placement, reader: LogReader
) -> Response:
    """Answer which VMs would be moved, as of the log's head when it was asked."""
    key = request.path_params["id"]
    if not allowed(principal, RIGHT, key):
        raise NotAllowed(
            f"{principal.actor} has no right {RIGHT} here.", remedy="Ask an admin for it."
        )
    require_no_parameters(request.scope)
    body = await read_body(headers_of(request.scope), request.receive)
    if bytes(body).strip() not in {b"", b"{}"}:
        raise NotJson("A preview takes no fields.", remedy="Send no body, or {}.")
    await caught_up(placement, reader)
    cluster = await cluster_of(reader, key)
    await learn_affinity(placement, reader, cluster)
    found = preview(placement, cluster)
    return Response(
        _encoder.encode(found),
        media_type="application/json",
        headers={"Chronovisor-Position": str(found.position), "Cache-Control": "no-store"},
    )
