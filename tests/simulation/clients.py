"""Admins' clients, which repeat a command under its key until they hear what became of it.

A command is carried out in an engine's process, by the real handler: that may die, stand still or
lose the log meanwhile. What was accepted must have happened once, whatever was repeated; what was
refused, or given up on, at most once, since an earlier copy may still lie with an engine.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from commands.kernel.command import Context
from commands.kernel.handler import Accepted
from commands.kernel.refusal import Refusal
from events.log.port import OverloadedError, UnavailableError

if TYPE_CHECKING:
    from tests.simulation.engine import EngineProcess
    from tests.simulation.world import World

PRINCIPAL = "admin"
ATTEMPTS_MAX = 20
ANSWER_S_MAX = 15.0
RETRY_S = (0.5, 4.0)


class NoAnswerError(Exception):
    """The client gave up: whether the command was accepted is not known."""


class Given(msgspec.Struct, kw_only=True):
    """A command that was given: under which ids it was tried, and the answer, once there is one."""

    what: str
    tried: set[uuid.UUID] = msgspec.field(default_factory=set)
    answer: bytes | None = None


class Client:
    """Gives commands to engines."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._given: dict[str, Given] = {}

    async def do(self, command: Any) -> dict[str, Any]:
        """Return the answer to a command; raises its refusal, and NoAnswerError."""
        key = f"command-{len(self._given) + 1}"
        given = self._given[key] = Given(what=repr(command))
        dice, met = self._world.dice, self._world.met
        for attempt in range(ATTEMPTS_MAX):
            accepted = await self._attempt(command, key, given)
            if accepted is not None:
                met["answers to what was repeated"] += accepted.repeated
                given.answer = accepted.answer
                answer: dict[str, Any] = msgspec.json.decode(accepted.answer)
                return answer
            met["commands repeated"] += attempt == 0
            await asyncio.sleep(dice.uniform(*RETRY_S))
        raise NoAnswerError

    async def _attempt(self, command: Any, key: str, given: Given) -> Accepted | None:
        """Give the command to an engine; None where no answer comes."""
        engines = self._world.listening()
        if not engines:
            return None
        engine = self._world.dice.choice(engines)
        asked = engine.spawn(self._ask(engine, command, key, given))
        await asyncio.wait({asked}, timeout=ANSWER_S_MAX)
        if not asked.done() or asked.cancelled():
            return None
        found: Accepted | Refusal | None = asked.result()
        if isinstance(found, Refusal):
            raise found
        return found

    async def _ask(
        self, engine: EngineProcess, command: Any, key: str, given: Given
    ) -> Accepted | Refusal | None:
        """Carry a command out in an engine's process, as its API does."""
        view = engine.view

        def source() -> Context:
            context = self._world.sources.context(PRINCIPAL)
            given.tried.add(context.command)
            return msgspec.structs.replace(
                context,
                hosts_of=lambda cluster: tuple(
                    sorted(host.id for host in view.hosts.values() if host.cluster == cluster)
                ),
                macs=view.macs,
            )

        try:
            return await engine.handler.handle(
                command.decide,
                source,
                principal=PRINCIPAL,
                key=key,
                body_mac=hashlib.sha256(given.what.encode()).digest(),
            )
        except Refusal as refusal:
            return refusal
        except (OverloadedError, UnavailableError):
            return None

    def a_backup_was_restored(self) -> None:
        """Take note that the log has forgotten the last of what was accepted."""
        known = self._world.log._answers
        for key, given in self._given.items():
            if (PRINCIPAL, key) not in known:
                given.answer = None

    def check(self) -> None:
        """Check that each command took effect once if it was accepted, and else at most once."""
        world = self._world
        effects: dict[uuid.UUID, list[int]] = {}
        for stored in world.log._events:
            effects.setdefault(stored.command, []).append(stored.position)
        for key, given in self._given.items():
            stored_answer = world.log._answers.get((PRINCIPAL, key))
            happened = [effects[one] for one in sorted(given.tried) if one in effects]
            told: list[list[int]] = []
            if stored_answer is not None and stored_answer.count:
                first = stored_answer.first
                told = [list(range(first, first + stored_answer.count))]
            if happened != told:
                world.break_promise(f"{key} took effect at {happened}, not {told}: {given.what}")
            if given.answer is not None and (
                stored_answer is None or stored_answer.answer != given.answer
            ):
                world.break_promise(f"{key} was accepted, and is not stored so: {given.what}")
