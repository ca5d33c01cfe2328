"""The relay for tests that kill it: `relay_child.py DSN BOOTSTRAP`."""

from __future__ import annotations

import asyncio
import sys

from events.log.reader import PostgresLogReader
from events.stream.relay import Relay


async def main(dsn: str, bootstrap: str) -> None:
    async with PostgresLogReader.open(dsn) as reader:
        await Relay(bootstrap, reader, time_scale=0.1).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
