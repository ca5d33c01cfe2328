"""The warehouse's process for tests that kill it: `dwh_child.py DSN FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dwh.process import WarehouseProcess
from dwh.telemetry_server import TelemetryServer
from events.log.postgres import PostgresLog
from events.stream.direct import DirectStream
from tests.contract.sample_events import SAMPLE_CODEC


async def main(dsn: str, folder: Path) -> None:
    async with PostgresLog.open(dsn, migrate=False, codec=SAMPLE_CODEC) as log:
        process = WarehouseProcess(
            DirectStream(log),
            folder,
            telemetry=TelemetryServer(folder / "telemetry.sock"),
            query_socket=folder / "query.sock",
            codec=SAMPLE_CODEC,
            time_scale=0.1,
        )
        await process.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
