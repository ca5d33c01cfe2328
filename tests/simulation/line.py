"""The line between an agent and the engine: it delays, loses, doubles and reorders."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

import msgspec

from events.wire.agent import Hello, Intent, Orders, Welcome
from hostagent.client import Messages, understood
from hostagent.gateway import GatewayAwayError
from tests.simulation.engine import EngineProcess, encoded

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedHost
    from tests.simulation.world import World

REQUEST_TIMEOUT_S = 15.0
SLOW_S_MAX = 4.0
LATE_S_MAX = 400.0
"""Doubles come when everybody has forgotten of them, too."""
NO_CONTENT = 204
REPORT_PATH = "/agent/v1/report"
HELLO_PATH = "/agent/v1/hello"
Answer = TypeVar("Answer")


class Line(Messages):
    """An agent's gateway port; what it carries is the real messages to the real application."""

    def __init__(self, world: World, host: SimulatedHost) -> None:
        super().__init__()
        self._world = world
        self._host = host
        self._engine: EngineProcess | None = None

    async def hello(self, hello: Hello) -> Welcome:
        log_id = self._world.log.log_id
        welcome = await super().hello(hello)
        self._host.is_welcome(log_id)
        return welcome

    async def orders(self, session: str, after: int, wait_s: float) -> Orders:
        query = urlencode({"session": session, "after": after, "wait": wait_s})
        body = await self._ask("GET", "/agent/v1/orders", query, limit_s=REQUEST_TIMEOUT_S + wait_s)
        return understood(body, Orders, Orders(changes=Intent(position=after)))

    def use(self, _context: ssl.SSLContext) -> None:
        raise NotImplementedError("a simulated host shows what it has")

    async def close(self) -> None:
        return

    async def _post(
        self, path: str, message: msgspec.Struct, answer: type[Answer], empty: Answer | None = None
    ) -> Answer:
        return understood(await self._ask("POST", path, body=encoded(message)), answer, empty)

    async def _ask(
        self,
        method: str,
        path: str,
        query: str = "",
        body: bytes = b"",
        limit_s: float = REQUEST_TIMEOUT_S,
    ) -> bytes:
        dice, faults = self._world.dice, self._world.faults
        try:
            async with asyncio.timeout(limit_s):
                await self._pass()
                engine = self._connected()
                if method == "POST" and dice.random() < faults.doubled:
                    await self._double(method, path, query, body)
                if dice.random() < faults.slow:
                    await asyncio.sleep(dice.uniform(0.0, SLOW_S_MAX))
                status, answer = await self._deliver(engine, method, path, query, body)
                await self._pass()
        except TimeoutError as error:
            self._engine = None
            raise GatewayAwayError("no answer in time") from error
        except GatewayAwayError:
            self._engine = None
            raise
        if status >= 400:
            raise self._problem(status, None, answer)
        return b"" if status == NO_CONTENT else answer

    async def _pass(self) -> None:
        """Let a message pass in one direction."""
        dice = self._world.dice
        await asyncio.sleep(dice.uniform(0.0005, 0.02))
        if self._host.partitioned:
            await asyncio.sleep(REQUEST_TIMEOUT_S)
            raise GatewayAwayError("no route to the engine")
        if dice.random() < self._world.faults.lost:
            raise GatewayAwayError("lost on the way")

    def _connected(self) -> EngineProcess:
        """Return the engine at the connection's other end; a new connection may go to another."""
        if self._engine is None or self._engine.dead:
            listening = self._world.listening()
            if not listening:
                raise GatewayAwayError("nobody listens", on_its_way=False)
            self._engine = self._world.dice.choice(listening)
        return self._engine

    async def _deliver(
        self, engine: EngineProcess, method: str, path: str, query: str, body: bytes
    ) -> tuple[int, bytes]:
        if engine.dead:
            raise GatewayAwayError("the connection broke")
        shown = self._host.certificate
        if path == HELLO_PATH:
            self._world.hellos.append(self._world.loop.time())
        serving = engine.spawn(engine.answer(shown, method, path, query, body))
        await asyncio.wait({serving})
        if serving.cancelled():
            raise GatewayAwayError("the engine died")
        result: tuple[int, bytes] = serving.result()
        return result

    async def _double(self, method: str, path: str, query: str, body: bytes) -> None:
        """Let a message come twice, the first time late.

        TLS delivers nothing twice by itself. So what says how things are comes twice only where its
        sender gave up on it, and sends it once more.
        """
        self._world.begin(self._again(self._host.certificate, method, path, query, body))
        if path == REPORT_PATH:
            await asyncio.sleep(REQUEST_TIMEOUT_S)
            raise GatewayAwayError("no answer in time")

    async def _again(self, shown: bytes, method: str, path: str, query: str, body: bytes) -> None:
        """Deliver a message late, to any engine; nobody hears the answer.

        It lay with the engine all the while: what becomes of its sender meanwhile changes nothing.
        """
        dice = self._world.dice
        await asyncio.sleep(dice.uniform(0.0, dice.choice([SLOW_S_MAX, LATE_S_MAX])))
        engine = dice.choice([*self._world.listening(), None])
        if engine is not None and not engine.dead:
            await asyncio.wait({engine.spawn(engine.answer(shown, method, path, query, body))})
