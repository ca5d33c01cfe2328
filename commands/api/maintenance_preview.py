"""`POST /v1/hosts/{id}/maintenance/preview`: what a host's maintenance would do to its VMs."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from access.principals import Principal
from access.rights import allowed
from commands.api.bodies import decode
from commands.api.placement import caught_up, cluster_of, learn_affinity
from commands.api.problems import NotAllowed
from commands.api.requests import headers_of, read_body, require_no_parameters
from commands.gateway.maintenance_preview import PreviewRequest, preview
from commands.gateway.placement import Placement
from commands.gateway.view import ViewWorld
from commands.state import lookup
from events.log.port import LogReader

PATH = "/v1/hosts/{id}/maintenance/preview"
RIGHT = "MANIPULATE_HOST"
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(PreviewRequest)


async def answer(
    request: Request, principal: Principal, placement: Placement, reader: LogReader
) -> Response:
    """Answer what would become of the VMs, as of the log's head when it was asked."""
    host = request.path_params["id"]
    if not allowed(principal, RIGHT, host):
        raise NotAllowed(
            f"{principal.actor} has no right {RIGHT} here.", remedy="Ask an admin for it."
        )
    require_no_parameters(request.scope)
    body = await read_body(headers_of(request.scope), request.receive)
    asked = decode(bytes(body).strip() or b"{}", _decoder, PreviewRequest)
    await caught_up(placement, reader)
    cluster = await cluster_of(reader, lookup.host(ViewWorld(placement.view), host).cluster)
    await learn_affinity(placement, reader, cluster)
    await learn_affinity(placement, reader, cluster)
    found = preview(placement, host, cluster, asked)
    return Response(
        _encoder.encode(found),
        media_type="application/json",
        headers={"Chronovisor-Position": str(found.position), "Cache-Control": "no-store"},
    )
