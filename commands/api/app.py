"""The command API: a route for each command, derived from its declaration.

The composition makes an `Api`, joins its routes with those of the read side, and serves them as one
`Application` (commands/api/application.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping

import msgspec
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from access.principals import Principal
from access.rights import allowed
from access.secrets import EngineSecret
from access.tokens import TokenVerifier
from access.vault import Vault
from commands.api import balance_preview, maintenance_preview, metrics, placement
from commands.api.answers import OK, answer, stored_fields
from commands.api.bodies import BodyDecoder, decode
from commands.api.contexts import ContextFactory, new_context
from commands.api.endings import Ending, Endings
from commands.api.health import HealthCheck
from commands.api.machines import DIGEST_PATH, SSH_KEY_PATH, Machines
from commands.api.problems import (
    NotAllowed,
    NotAuthenticated,
    Overloaded,
    Unavailable,
    problem_response,
)
from commands.api.requests import (
    Wishes,
    headers_of,
    read_body,
    require_no_parameters,
    wishes,
)
from commands.api.sealing import sealed, secret_fields
from commands.catalogue import COMMANDS
from commands.gateway.enrolment import Enrolment
from commands.gateway.placement import Placement
from commands.kernel.command import Command, Context, Declaration, MacsInUse
from commands.kernel.handler import Accepted, ContextSource, Handler
from commands.kernel.refusal import PreconditionFailed, Refusal
from events.log.port import (
    QUEUE_COMMANDS_MAX,
    WAIT_MS_MAX,
    LogReader,
    OverloadedError,
    UnavailableError,
)
from events.wire.agent import Join

JOINS_AT_ONCE_MAX = 16
COMMANDS_AT_ONCE_MIN = 256
"""So many commands are always let in: as many as a group of the log's has. Beyond, only while the
oldest has not waited long: more would only wait, the longer the more of them there are, instead of
being told to come again.
"""
OVERLOADED_RETRY_S = 1.0
EVENTS_BEHIND_MAX = 10_000
"""An engine that has the processor takes them in within a second."""
TOKEN_COMMAND = "host.token"  # noqa: S105  the name of a command

_join_decoder = msgspec.json.Decoder(Join)
_canonical = msgspec.json.Encoder()


class Api:
    """Accepts commands over HTTP.

    `health` tells how the parts are doing, `behind` how many events of the log this process has yet
    to take in.
    """

    def __init__(  # noqa: PLR0913 - the composition gives each by its name
        self,
        *,
        handler: Handler,
        reader: LogReader,
        tokens: TokenVerifier,
        secret: EngineSecret,
        vault: Vault,
        enrolment: Enrolment,
        placement: Placement,
        machines: Machines,
        health: HealthCheck,
        behind: Callable[[], int] = lambda: 0,
        registry: CollectorRegistry | None = None,
        context: ContextFactory = new_context,
    ) -> None:
        self.handler = handler
        self.secret = secret
        self.vault = vault
        self.enrolment = enrolment
        self._placement = placement
        self._machines = machines
        self._reader = reader
        self.metrics = metrics.CommandMetrics(registry)
        self.endings = Endings(reader)
        self.context = context
        self._tokens = tokens
        self._health = health
        self._behind = behind
        self._joining = 0
        self._places: dict[int, float] = {}
        self._numbers = itertools.count()

    def require_place(self) -> None:
        """Raise OverloadedError where there are too many commands already (contract A's bounds).

        So it is where the engine does not keep up with what they lead to: decided on what was, they
        would be decided twice, and agents would hear ever later of what they are to do.
        """
        if self._behind() > EVENTS_BEHIND_MAX:
            raise OverloadedError(OVERLOADED_RETRY_S)
        places = self._places
        if len(places) < COMMANDS_AT_ONCE_MIN:
            return
        waited_s = time.monotonic() - next(iter(places.values()))
        if len(places) >= QUEUE_COMMANDS_MAX or waited_s > WAIT_MS_MAX / 1000:
            raise OverloadedError(OVERLOADED_RETRY_S)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Count a command in while it is decided and appended; raises OverloadedError."""
        self.require_place()
        number = next(self._numbers)
        self._places[number] = time.monotonic()
        try:
            yield
        finally:
            del self._places[number]

    def hosts_of(self, cluster: str) -> tuple[str, ...]:
        """Return the ids of a cluster's hosts, as far as this process has read the log."""
        hosts = self._placement.view.hosts.values()
        return tuple(sorted(host.id for host in hosts if host.cluster == cluster))

    def clusters_of(self, data_center: str) -> tuple[str, ...]:
        """Return the ids of a data center's clusters, as far as this process has read the log."""
        clusters = self._placement.view.clusters.items()
        return tuple(sorted(cluster for cluster, where in clusters if where == data_center))

    @property
    def macs(self) -> MacsInUse:
        """The MAC addresses of all NICs, as far as this process has read the log."""
        return self._placement.view.macs

    async def close(self) -> None:
        """Let go of what was begun."""
        await self.endings.close()

    def principal(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Return who is asking; raises NotAuthenticated."""
        given = headers.get(b"authorization")
        principal = self._tokens.principal(given)
        if principal is None:
            missing = "The request carries no token."
            raise NotAuthenticated(
                missing if given is None else "The token is not known here.",
                remedy="Send the header 'Authorization: Bearer <token>'.",
            )
        return principal

    async def authenticate(self, request: Request) -> Principal | None:
        """Return who is asking, or None: for the read side."""
        return self._tokens.principal(request.headers.get("authorization"))

    def routes(self, document: bytes, page: str, page_policy: str) -> list[BaseRoute]:
        """Return the routes.

        `document` is the OpenAPI document of the whole product, as JSON, `page` the page that
        shows it, and `page_policy` the page's Content-Security-Policy.
        """

        async def show_document(request: Request) -> Response:
            return Response(document, media_type="application/json")

        async def show_page(request: Request) -> Response:
            return HTMLResponse(page, headers={"Content-Security-Policy": page_policy})

        plain: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
            "/v1/join": ("POST", self._join),
            "/v1/ca": ("GET", self._trust),
            placement.PATH: ("POST", self._place),
            maintenance_preview.PATH: ("POST", self._preview),
            balance_preview.PATH: ("POST", self._preview_balance),
            DIGEST_PATH: ("GET", self._machines.bundle),
            SSH_KEY_PATH: ("GET", self._show_ssh_key),
            "/v1/health": ("GET", self._answer_health),
            "/metrics": ("GET", self._show_metrics),
            "/v1/openapi.json": ("GET", show_document),
            "/v1/docs": ("GET", show_page),
        }
        return [
            *(
                Route(each.path, CommandEndpoint(self, each), methods=[each.method], name=each.name)
                for each in COMMANDS.values()
            ),
            *(
                Route(path, _guarded(answering), methods=[method])
                for path, (method, answering) in plain.items()
            ),
        ]

    async def _join(self, request: Request) -> Response:
        """Let a machine join: its token is all that it has to show."""
        require_no_parameters(request.scope)
        headers = headers_of(request.scope)
        body = await read_body(headers, request.receive)
        join = decode(body or b"{}", _join_decoder, Join)
        if self._joining >= JOINS_AT_ONCE_MAX:
            raise Overloaded("Many machines are joining at once.", remedy="Try again in a moment.")
        self._joining += 1
        try:
            joined = await self.enrolment.join(join, lambda: self.context("enrolment", 2, 0))
        finally:
            self._joining -= 1
        return Response(_canonical.encode(joined), media_type="application/json")

    async def _place(self, request: Request) -> Response:
        """Answer where a VM would be placed."""
        principal = self.principal(headers_of(request.scope))
        return await placement.answer(request, principal, self._placement, self._reader)

    async def _preview(self, request: Request) -> Response:
        """Answer what a host's maintenance would do."""
        principal = self.principal(headers_of(request.scope))
        return await maintenance_preview.answer(request, principal, self._placement, self._reader)

    async def _preview_balance(self, request: Request) -> Response:
        """Answer which VMs would be moved to balance a cluster."""
        principal = self.principal(headers_of(request.scope))
        return await balance_preview.answer(request, principal, self._placement, self._reader)

    async def _trust(self, request: Request) -> Response:
        try:
            text = await asyncio.to_thread(self.enrolment.trust)
        except OSError as error:
            raise Unavailable("The CA's certificates cannot be read.") from error
        return Response(text, media_type="application/x-pem-file")

    async def _answer_health(self, request: Request) -> Response:
        found = await self._health()
        status = OK if found.get("head") is not None else Unavailable.status
        return Response(
            _canonical.encode(found),
            status_code=status,
            media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    async def _show_ssh_key(self, request: Request) -> Response:
        self.principal(headers_of(request.scope))
        return self._machines.ssh_key()

    async def _show_metrics(self, request: Request) -> Response:
        self.principal(headers_of(request.scope))
        return Response(self.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})


class CommandEndpoint:
    """One command's route, as an ASGI application: nothing is looked up again for a request."""

    def __init__(self, api: Api, declaration: Declaration) -> None:
        self.declaration = declaration
        self._api = api
        self._body = BodyDecoder(declaration)
        self._secrets = secret_fields(declaration)
        self._versioned = PreconditionFailed in declaration.refusals
        self._lists = tuple(
            field.name
            for field in msgspec.structs.fields(declaration.cls)
            if isinstance(field.default, tuple) and field.name in declaration.body_fields
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            response = await self._answer(scope, receive)
        except Exception as error:  # noqa: BLE001 - every failure is answered as a problem
            response = problem_response(error, Request(scope))
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        began = time.perf_counter()
        outcome = "internal-error"
        try:
            accepted, wished = await self._accept(scope, receive)
            outcome = "repeated" if accepted.repeated else "accepted"
        except (Refusal, OverloadedError, UnavailableError) as error:
            outcome = error.slug() if isinstance(error, Refusal) else "unavailable"
            raise
        finally:
            seconds = time.perf_counter() - began
            self._api.metrics.observe(self.declaration.name, outcome, seconds)
        fields = stored_fields(accepted)
        if self.declaration.name == TOKEN_COMMAND:
            fields["token"] = self._api.enrolment.token_text(fields["token_id"])
        ending = await self._ending(fields.get("operation"), wished.wait_s)
        position = max(accepted.position, ending.position if ending else 0)
        return answer(self.declaration, fields, position, ending, wished.wait_s)

    async def _accept(self, scope: Scope, receive: Receive) -> tuple[Accepted, Wishes]:
        api, declaration = self._api, self.declaration
        headers = headers_of(scope)
        path: dict[str, str] = scope["path_params"]
        principal = api.principal(headers)
        if not allowed(principal, declaration.permission, path.get("id")):
            raise NotAllowed(
                f"{principal.actor} has no right {declaration.permission} here.",
                remedy="Ask an admin for it.",
                right=declaration.permission,
            )
        require_no_parameters(scope)
        wished = wishes(headers, versioned=self._versioned)
        api.require_place()  # before the work of reading the body, too
        command = self._body.decode(await read_body(headers, receive), path)
        mac = b"" if wished.key is None else self._mac(scope, command)
        with api.place():
            async with sealed(api.vault, command, self._secrets) as held:
                accepted = held.accepted = await api.handler.handle(
                    held.command.decide,
                    self._source(command, principal.actor, wished.if_match),
                    principal=principal.actor,
                    key=wished.key,
                    body_mac=mac,
                )
        return accepted, wished

    async def _ending(self, operation: str | None, wait_s: int | None) -> Ending | None:
        if operation is None or not wait_s:
            return None
        return await self._api.endings.wait(operation, wait_s)

    def _mac(self, scope: Scope, command: Command) -> bytes:
        """Tell requests under one key apart: by what they ask for, not by how they spell it."""
        line = f"{self.declaration.method} {scope['path']}\n".encode()
        return self._api.secret.body_mac(line + _canonical.encode(command))

    def _source(self, command: Command, actor: str, if_match: int | None) -> ContextSource:
        """Ids for an object and for each of its parts: to make more would only take time."""
        parts = sum(len(getattr(command, name)) for name in self._lists)

        def source() -> Context:
            return msgspec.structs.replace(
                self._api.context(actor, 1 + parts, parts),
                if_match=if_match,
                secret_sha256=self._api.secret.enrolment_digest,
                hosts_of=self._api.hosts_of,
                clusters_of=self._api.clusters_of,
                macs=self._api.macs,
            )

        return source


def _guarded(
    answering: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        try:
            return await answering(request)
        except Exception as error:  # noqa: BLE001 - every failure is answered as a problem
            return problem_response(error, request)

    return guarded
