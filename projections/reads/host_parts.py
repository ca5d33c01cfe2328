"""The lists inside of a host's hardware, each at a path of its own: `/v1/hosts/{id}/nics`."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from events.types.host_hardware import BlockDevice, HostNic, NumaNode, PciDevice, UsbDevice
from projections.reads.collections import HOSTS
from projections.reads.context import POSITION_HEADER, Reads, building
from projections.reads.lists import check_parameters
from projections.reads.objects import missing, require_key, statement
from projections.views.host_document import HostDocument

PARTS: dict[str, type[msgspec.Struct]] = {
    "nics": HostNic,
    "devices": PciDevice,
    "usb_devices": UsbDevice,
    "block_devices": BlockDevice,
    "numa_nodes": NumaNode,
}
"""The lists, and what they are of."""
SPOKEN = {
    "nics": "network interfaces",
    "devices": "PCI devices",
    "usb_devices": "USB devices",
    "block_devices": "disks",
    "numa_nodes": "NUMA nodes",
}


def path(part: str) -> str:
    """Return the path of a list."""
    return f"{HOSTS.path}/{{id}}/{part}"


async def answer_part(part: str, reads: Reads, request: Request) -> Response:
    """Answer one list; it is empty for a host that has not reported it."""
    check_parameters(request.query_params, ("after",))
    given: str = request.path_params["id"]
    rows = await reads.query(statement(HOSTS), [require_key(HOSTS, given)])
    if not rows:
        raise building()
    position, document, _version = rows[0]
    if document is None:
        raise missing(HOSTS, given, position=position)
    able = msgspec.json.decode(document, type=HostDocument).capabilities
    hardware = able.hardware if able is not None else None
    items = getattr(hardware, part) if hardware is not None else ()
    return Response(
        msgspec.json.encode({"items": items}),
        media_type="application/json",
        headers={POSITION_HEADER: str(position)},
    )
