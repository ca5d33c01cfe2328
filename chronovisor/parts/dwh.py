"""The warehouse's process: the one owner of the DuckDB file."""

from __future__ import annotations

import asyncio

from chronovisor.heartbeat import Heartbeat, Pulse
from chronovisor.installation import Installation
from chronovisor.parts.common import REST_S, open_reader, open_stream
from chronovisor.running import together
from dwh.process import WarehouseProcess
from dwh.telemetry_server import TelemetryServer
from events.wire.telemetry import TelemetrySource


async def run(installation: Installation, stop: asyncio.Event) -> None:
    """Take in events and samples, and answer queries, until `stop`."""
    installation.prepare_sockets()
    async with open_reader(installation) as reader:
        warehouse = WarehouseProcess(
            open_stream(installation, reader, rest_s=REST_S),
            installation.folder.warehouse,
            telemetry=_telemetry(installation),
            query_socket=installation.folder.query_socket,
            copy_socket=installation.folder.warehouse_copy_socket,
            time_scale=installation.settings.time_scale,
        )

        def pulse() -> Pulse:
            status = warehouse.status
            word = "up" if status.state == "following" else status.state
            return Pulse(state=word, position=status.position, detail=status.last_error)

        beat = Heartbeat(installation.dsn(), "dwh", pulse)
        await together(stop, warehouse.run(), beat.run())


def _telemetry(installation: Installation) -> TelemetrySource:
    bootstrap = installation.settings.kafka.bootstrap
    if bootstrap is None:
        return TelemetryServer(installation.folder.telemetry_socket)
    from events.stream.kafka_telemetry import TelemetryConsumer  # noqa: PLC0415 - not always used

    return TelemetryConsumer(bootstrap)
