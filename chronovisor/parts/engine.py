"""The engine's process: the HTTP API with the reads, and the agents' gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Coroutine

import msgspec
import psycopg
import structlog
from psycopg_pool import PoolTimeout

from access.secrets import EngineSecret
from access.ssh_key import SshKey
from access.succession import Authorities
from access.tokens import TokenVerifier
from access.trust import ServerFiles
from access.vault import MIGRATIONS, SCHEMA, PostgresVault
from chronovisor.agent_bundle import BundleKeeper
from chronovisor.certificates import CertificateKeeper
from chronovisor.contexts import context, source_for
from chronovisor.defaults import ensure_defaults
from chronovisor.fencing import boot_timeout_s, kdump_place
from chronovisor.heartbeat import WELL, Heartbeat, Pulse, read_health
from chronovisor.installation import Addresses, Installation
from chronovisor.parts.common import Pool, opened_pool
from chronovisor.running import together
from chronovisor.ssh import work_over_ssh
from chronovisor.web import join_routes
from commands.api.app import Api
from commands.api.machines import Machines
from commands.gateway.app import Gateway, Intervals
from commands.gateway.contacts import PostgresContacts
from commands.gateway.enrolment import Enrolment
from commands.gateway.fencing import FRESH_S, FRESH_S_MIN
from commands.gateway.kdump import KdumpListener
from commands.gateway.loads import MINUTE_S, Averages, LoadKeeper, PostgresLoads
from commands.gateway.monitor import Monitor, Patience
from commands.gateway.placement import Placement
from commands.gateway.reception import bind
from commands.gateway.renewal import RENEW_PATH, Renewals
from commands.gateway.tls import ServerConfig, serve, server_config
from commands.gateway.vault_keeper import VaultKeeper
from commands.gateway.view import SHAPE, GatewayView
from commands.kernel.handler import Handler
from commands.kernel.snapshots import Keeper
from commands.remote.source import EnginePlace
from commands.remote.worker import Tools
from events.codec import CODEC
from events.log.migrate import migrate
from events.log.port import LogReader, UnavailableError
from events.log.postgres import PostgresLog
from events.wire.telemetry import TelemetrySender, TelemetrySink
from projections.reads.routes import ReadApi

log = structlog.get_logger(__name__)
FOLLOW_S = 5.0
POLLS_IN_SILENCE = 2.4
"""A host that has no news is heard so often within the time after which it counts as silent."""
POLL_S_MAX = 55.0
"""What lies between engine and agents may forget connections that are still for a minute."""


class Engine:
    """The engine, built of its parts; `run` serves until it is told to stop."""

    def __init__(self, installation: Installation, events: PostgresLog, pool: Pool) -> None:
        settings = installation.settings
        scale = settings.time_scale
        self._installation = installation
        self._log = events
        self._pool = pool
        self._view = GatewayView()
        self._handler = Handler(events, known=self._view.known)
        self._keeper = Keeper(events, SHAPE)
        self._contacts = PostgresContacts(pool)
        self._monitor = Monitor(
            self._handler,
            self._view,
            self._contacts,
            Patience(
                timeout_s=settings.hosts.silent_timeout_s * scale,
                grace_s=settings.hosts.grace_s * scale,
                interval_s=max(0.2, 2.0 * scale),
                failing_s=settings.hosts.failing_s * scale,
                boot_timeout_s=boot_timeout_s(settings.fencing, scale),
            ),
            source_for("gateway"),
            name=str(uuid.uuid4()),
        )
        self._telemetry = _telemetry_sink(installation)
        self._averages = Averages(minute_s=MINUTE_S * scale)
        self._loads = LoadKeeper(PostgresLoads(pool), self._averages, minute_s=MINUTE_S * scale)
        self._placement = Placement(self._view, self._loads)
        self._secret = EngineSecret.load(installation.folder.secret)
        self._vault = PostgresVault(pool, self._secret)
        self._ssh_key = SshKey.load_or_create(installation.folder.ssh)
        self._agent = BundleKeeper(installation.folder.agent)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        await self._keeper.restore(self._view)
        await self._contacts.prepare()
        await asyncio.to_thread(migrate, self._installation.dsn(), SCHEMA, MIGRATIONS)
        if not await self._log.load(f"log/{self._log.log_id}"):  # a restored log had its own
            await ensure_defaults(self._handler, self._log.log_id)
        files = self._installation.server_files()
        settings = self._installation.settings
        api_socket = bind(settings.api.host, settings.api.port)
        gateway_socket = bind(settings.gateway.host, _gateway_port(self._installation))
        addresses = self._addresses(api_socket.getsockname()[1], gateway_socket.getsockname()[1])
        authorities = Authorities(self._installation.folder.authority)
        enrolment = Enrolment(
            self._handler, self._view, authorities, self._secret, files.trust, addresses.gateway
        )
        api = self._build_api(enrolment)
        reads = ReadApi(
            dsn=self._installation.dsn(),
            log=self._log,
            authenticate=api.authenticate,
            time_scale=settings.time_scale,
        )
        api_config = server_config(
            join_routes(api, reads),
            host=settings.api.host,
            port=api_socket.getsockname()[1],
            certificate=None if settings.api.plain_http else files.certificate,
            key=None if settings.api.plain_http else files.key,
        )
        gateway = self._gateway_config(gateway_socket.getsockname()[1], files, enrolment)
        self._view.on_barred = gateway.cut_soon
        certificates = CertificateKeeper(
            self._installation.server_files, authorities, (api_config, gateway)
        )
        beat = Heartbeat(self._installation.dsn(), "engine", self._pulse)
        async with reads.open(), _closing(api), _closing(self._keeper):
            await together(
                stop,
                serve(
                    (api_config, api_socket),
                    (gateway, gateway_socket),
                    stop=stop,
                    on_started=lambda: self._installation.write_addresses(addresses),
                ),
                follow(self._log, self._view, self._handler, self._keeper),
                self._monitor.run(),
                self._loads.run(self._placement.fleet_in_use),
                VaultKeeper(self._vault, self._view, self._log).run(),
                *self._kdump(),
                self._telemetry.run(),
                certificates.run(),
                beat.run(),
                work_over_ssh(self._installation.dsn(), self._tools(enrolment, addresses)),
            )

    def _gateway_config(self, port: int, files: ServerFiles, enrolment: Enrolment) -> ServerConfig:
        settings = self._installation.settings
        scale = settings.time_scale
        gateway = Gateway(
            self._handler,
            self._log,
            self._view,
            self._monitor,
            self._telemetry,
            source_for,
            Intervals(
                telemetry_s=settings.hosts.telemetry_interval_s * scale,
                poll_s=max(
                    1.0, min(POLL_S_MAX, settings.hosts.silent_timeout_s / POLLS_IN_SILENCE) * scale
                ),
                compare_s=settings.hosts.compare_interval_s * scale,
                fence_fresh_s=max(FRESH_S_MIN, FRESH_S * scale),
            ),
            Renewals(self._handler, enrolment),
            self._secret.migration_ticket,
            self._vault,
            self._averages,
        )
        return server_config(
            gateway.app(),
            host=settings.gateway.host,
            port=port,
            certificate=files.certificate,
            key=files.key,
            ca_bundle=files.trust,
            expired_paths=frozenset({RENEW_PATH}),
        )

    def _kdump(self) -> tuple[Coroutine[None, None, None], ...]:
        """Return what listens for kernel dumps, unless the settings say that nothing does."""
        place = kdump_place(self._installation.settings)
        if place is None:
            return ()
        listener = KdumpListener(
            self._handler, self._view, self._contacts, source_for("gateway"), place
        )
        return (listener.run(),)

    def _build_api(self, enrolment: Enrolment) -> Api:
        return Api(
            handler=self._handler,
            reader=self._log,
            tokens=TokenVerifier.from_admin_token_file(self._installation.folder.admin_token),
            secret=self._secret,
            vault=self._vault,
            enrolment=enrolment,
            placement=self._placement,
            machines=Machines(self._agent, self._ssh_key),
            context=context,
            health=self._health,
            behind=lambda: self._log.head_heard - self._view.position,
        )

    def _tools(self, enrolment: Enrolment, addresses: Addresses) -> Tools:
        """Return what the installation of hosts over SSH is done with."""
        return Tools(
            handler=self._handler,
            view=self._view,
            source=source_for("ssh"),
            vault=self._vault,
            key=self._ssh_key,
            agent=self._agent,
            enrolment=enrolment,
            place=EnginePlace(api=addresses.api, gateway=addresses.gateway),
            secret_sha256=self._secret.enrolment_digest,
            time_scale=self._installation.settings.time_scale,
        )

    def _addresses(self, api_port: int, gateway_port: int) -> Addresses:
        settings = self._installation.settings
        names = settings.api.names
        host = settings.gateway.address or (names[0] if names else settings.gateway.host)
        api_host = names[0] if names else settings.api.host
        scheme = "http" if settings.api.plain_http else "https"
        return Addresses(
            pid=os.getpid(),
            api=f"{scheme}://{_in_url(api_host)}:{api_port}",
            gateway=f"https://{_in_url(host)}:{gateway_port}",
        )

    def _pulse(self) -> Pulse:
        return Pulse(position=self._view.position)

    async def _health(self) -> dict[str, object]:
        """Return how every part is that ever spoke."""
        try:
            async with asyncio.timeout(3), self._pool.connection() as connection:
                parts = await read_health(connection)
            head = await self._log.head()
        except (TimeoutError, psycopg.Error, PoolTimeout, OSError, UnavailableError) as error:
            log.warning("health cannot be asked", reason=repr(error))
            return {"ok": False, "parts": [], "database": "The database does not answer."}
        return {
            "ok": all(part.state in WELL for part in parts),
            "log_id": str(self._log.log_id),
            "head": head,
            "parts": [msgspec.to_builtins(part) for part in parts],
        }


@contextlib.asynccontextmanager
async def _closing(part: Api | Keeper) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await part.close()


async def run(installation: Installation, stop: asyncio.Event) -> None:
    """Run the engine until `stop`."""
    installation.prepare()
    async with opened_log(installation) as events, opened_pool(installation, 4) as pool:
        await Engine(installation, events, pool).run(stop)


@contextlib.asynccontextmanager
async def opened_log(installation: Installation) -> AsyncIterator[PostgresLog]:
    """Open the log, its tables made or renewed."""
    async with PostgresLog.open(installation.dsn()) as events:
        yield events


async def follow(reader: LogReader, view: GatewayView, handler: Handler, keeper: Keeper) -> None:
    """Keep the gateway's view at the log's head, and its snapshots not far behind."""
    while True:
        try:
            stored = await reader.read(view.position)
            for one in stored:
                recorded = CODEC.decode(one)
                view.take(recorded)
                handler.follow(recorded)
            keeper.look(view)
            if not stored:
                await reader.wait(view.position, FOLLOW_S)
        except (UnavailableError, psycopg.Error, OSError) as error:
            log.warning("the gateway waits for the log", reason=str(error))
            await asyncio.sleep(0.5)


def _telemetry_sink(installation: Installation) -> TelemetrySink:
    bootstrap = installation.settings.kafka.bootstrap
    if bootstrap is None:
        return TelemetrySender(installation.folder.telemetry_socket)
    from events.stream.kafka_telemetry import TelemetryPublisher  # noqa: PLC0415 - not always used

    return TelemetryPublisher(bootstrap)


def _gateway_port(installation: Installation) -> int:
    settings = installation.settings
    if settings.gateway.port:
        return settings.gateway.port
    return settings.api.port + 1 if settings.api.port else 0


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
