"""A small TCP switch in front of several engines: it stands for a load balancer.

Each connection goes to the first target, from one that turns, that takes connections; whatever is
said goes through as it is, TLS and certificates included.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Sequence

Address = tuple[str, int]
CONNECT_TIMEOUT_S = 2.0
PIECE_BYTES = 64 * 1024


class Switch:
    """Listens on each address of `routes` and passes connections on to one of its targets."""

    def __init__(self, routes: dict[Address, Sequence[Address]]) -> None:
        self._routes = routes
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="switch", daemon=True)
        self._turn = itertools.count()
        self._out: set[Address] = set()
        self._servers: list[asyncio.Server] = []
        self.passed: dict[Address, int] = {}

    def start(self) -> None:
        """Take connections."""
        self._thread.start()
        assert self._ready.wait(10), "the switch does not listen"

    def stop(self) -> None:
        """Take none, and cut all."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def take_out(self, target: Address) -> None:
        """Pass no further connections to a target, as a balancer that saw its health fail."""
        self._out.add(target)

    def put_back(self, target: Address) -> None:
        """Pass connections to a target again."""
        self._out.discard(target)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _listen(self) -> None:
        for (host, port), targets in self._routes.items():

            async def passing(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                targets: Sequence[Address] = targets,
            ) -> None:
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await self._pass(reader, writer, targets)
                writer.close()

            self._servers.append(await asyncio.start_server(passing, host, port))

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        targets: Sequence[Address],
    ) -> None:
        first = next(self._turn)
        turned = [targets[(first + n) % len(targets)] for n in range(len(targets))]
        for target in (one for one in turned if one not in self._out):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    there, back = await asyncio.open_connection(*target)
            except OSError:
                continue
            self.passed[target] = self.passed.get(target, 0) + 1
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_copy(reader, back))
                    tasks.create_task(_copy(there, writer))
            except* OSError:
                pass
            finally:
                back.close()
            return


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    # One side's end is the connection's: what waits on the other would wait for ever.
    raise ConnectionResetError("ended")
