"""The warehouse's process for tests that kill it: `dwh_child.py DSN FOLDER [BOOTSTRAP]`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dwh.process import WarehouseProcess
from dwh.telemetry_server import TelemetryServer
from events.log.reader import PostgresLogReader
from events.stream.direct import DirectStream
from events.stream.kafka import KafkaStream
from events.stream.port import Stream
from tests.contract.sample_events import SAMPLE_CODEC


async def main(dsn: str, folder: Path, bootstrap: str | None) -> None:
    async with PostgresLogReader.open(dsn) as log:
        stream: Stream = DirectStream(log)
        if bootstrap is not None:
            stream = KafkaStream(bootstrap, log, time_scale=0.1)
        process = WarehouseProcess(
            stream,
            folder,
            telemetry=TelemetryServer(folder / "telemetry.sock"),
            query_socket=folder / "query.sock",
            codec=SAMPLE_CODEC,
            time_scale=0.1,
        )
        await process.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if sys.argv[3:] else None))
