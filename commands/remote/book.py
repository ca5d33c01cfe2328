"""What a worker writes into the log: each word fenced by the order and the worker's own name."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import msgspec

from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.handler import ContextSource, Decide, Handler
from commands.state.host import HOST, HostState
from commands.state.host_ssh import SshOrder
from events.types.base import Event
from events.types.host import HostApproved, HostEnrolmentTokenIssued
from events.types.host_ssh import HostSshBegun

TOKEN_VALID_S = 900


class SupersededError(Exception):
    """The order is over, or another worker has it: nothing more is to be done about it."""


class Book:
    """The entries of one worker about one order. `secret_sha256`: see `Context`."""

    def __init__(
        self,
        handler: Handler,
        source: ContextSource,
        secret_sha256: Callable[[str], str],
        host: str,
        order: str,
        worker: str,
    ) -> None:
        self._handler = handler
        self._source = source
        self._secret_sha256 = secret_sha256
        self._host = host
        self._order = order
        self._worker = worker

    async def begin(self) -> int:
        """Take the order; return the number by which the machine tells workers apart.

        Raises SupersededError where it is over.
        """
        begun = HostSshBegun(order=self._order, worker=self._worker)

        def decide(world: World, context: Context) -> Decision:
            _require_order(world, self._host, self._order)
            return self._decision(begun)

        return await self._append(decide)

    async def write(self, make: Callable[[HostState, SshOrder], Event | None]) -> HostState:
        """Append what `make` makes of the host as it is now; return that state.

        Raises SupersededError where the order is no longer this worker's.
        """
        seen: list[HostState] = []

        def decide(world: World, context: Context) -> Decision:
            state, order = self._require_own(world)
            seen.append(state)
            event = make(state, order)
            return self._decision(event)

        await self._append(decide)
        return seen[-1]

    async def state(self) -> HostState:
        """Return the host as it is now; raises SupersededError."""
        return await self.write(lambda _state, _order: None)

    async def issue_token(self) -> str:
        """Give out an enrolment token for the host, and return its id."""
        issued: list[str] = []

        def decide(world: World, context: Context) -> Decision:
            self._require_own(world)
            token = context.ids[0]
            issued.append(token)
            event = HostEnrolmentTokenIssued(
                token=token,
                secret_sha256=self._secret_sha256(token),
                expires=context.time + dt.timedelta(seconds=TOKEN_VALID_S),
            )
            return self._decision(event)

        await self._append(decide)
        return issued[-1]

    async def approve(self, token: str) -> bool:
        """Let the machine in that showed a token: who could log in to it need not ask again.

        Return whether it is let in; False while nobody has shown the token.
        """
        approved = False

        def decide(world: World, context: Context) -> Decision:
            nonlocal approved
            state, _order = self._require_own(world)
            approved = state.identity is not None and state.identity.token == token
            if not approved or state.approved:
                return self._decision(None)
            event = HostApproved(name=state.name)
            return self._decision(event)

        await self._append(decide)
        return approved

    def _require_own(self, world: World) -> tuple[HostState, SshOrder]:
        state, order = _require_order(world, self._host, self._order)
        if order.worker != self._worker:
            raise SupersededError
        return state, order

    def _decision(self, event: Event | None) -> Decision:
        events = on(HOST.stream(self._host), event) if event is not None else ()
        return Decision(id=self._host, events=events, correlation=self._order)

    async def _append(self, decide: Decide) -> int:
        def source() -> Context:
            return msgspec.structs.replace(self._source(), secret_sha256=self._secret_sha256)

        accepted = await self._handler.handle(decide, source, principal="ssh")
        return accepted.position


def _require_order(world: World, host: str, order_id: str) -> tuple[HostState, SshOrder]:
    state = world.get(HOST, host)
    order = state.ssh.order if state is not None and not state.removed else None
    if state is None or order is None or order.order != order_id:
        raise SupersededError
    return state, order
