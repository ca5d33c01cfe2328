"""The host agent's driver for libvirt; the only file that imports libvirt.

Here is the library's own half: each call, its flags and its errors. What they are used for is in
`libvirt_host`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import libvirt
import libvirt_qemu
import structlog

from hostagent.convergence import Copying, Terms
from hostagent.driver import DriverError
from hostagent.libvirt_events import RawEvent, RawKind
from hostagent.libvirt_host import HostDriver, Options
from hostagent.libvirt_job_stats import read_copying
from hostagent.libvirt_metadata import METADATA_NAMESPACE
from hostagent.libvirt_port import Connection, HostFigures, Listed, LostConnectionError
from hostagent.libvirt_xml import Ownership, ownership

LOST_DOMAINS = frozenset({libvirt.VIR_FROM_RPC})
LOST_CODES = frozenset(
    {libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_RPC}
)
STATISTICS = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)
# A domain whose QEMU hangs must not hold up the others' figures.
STATISTICS_FLAGS = (
    libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
)

log = structlog.get_logger()
P = ParamSpec("P")
R = TypeVar("R")
Domain = Any


class LibvirtDriver(HostDriver):
    """A host whose VMs are run by libvirt. Times are in seconds.

    `uri` is libvirt's name of the host, `storage_folder` where volumes, images and saved memory
    lie. libvirt notices a connection that does not answer for `keepalive_interval_s` times
    `keepalive_count`. `options` has the rest.
    """

    def __init__(
        self,
        uri: str,
        storage_folder: Path,
        *,
        keepalive_interval_s: float = 5.0,
        keepalive_count: int = 3,
        options: Options | None = None,
    ) -> None:
        hypervisor = Libvirt(uri, keepalive_interval_s, keepalive_count)
        super().__init__(hypervisor, storage_folder, options or Options())


class _EventThread:
    """libvirt's event loop: one for the process, in a thread that never keeps it from ending."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the loop unless it runs; must come before the first connection."""
        with self._lock:
            if self._thread is None:
                # libvirt prints every error to stderr unless told otherwise.
                libvirt.registerErrorHandler(_ignore, None)
                libvirt.virEventRegisterDefaultImpl()
                self._thread = threading.Thread(
                    target=self._run, name="libvirt-events", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                libvirt.virEventRunDefaultImpl()
            except libvirt.libvirtError:
                log.exception("libvirt_event_loop_failed")


def _ignore(*_: object) -> None:
    """Errors come as exceptions; libvirt's own report of them is not wanted."""


_event_thread = _EventThread()


def _translated(function: Callable[P, R]) -> Callable[P, R]:
    """Turn libvirt's errors into the port's. The connection is the second argument."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except libvirt.libvirtError as error:
            # Its frames hold domains, and those the connection: whoever let go of the error last
            # would close that, and wait for libvirtd.
            cause = error.with_traceback(None)
            if _is_lost(error, args[1] if len(args) > 1 else None):
                raise LostConnectionError(f"libvirt cannot be asked: {error}") from cause
            raise DriverError(str(error)) from cause

    return call


def _is_lost(error: Any, connection: object) -> bool:  # noqa: ANN401 - libvirt has no types
    if error.get_error_domain() in LOST_DOMAINS or error.get_error_code() in LOST_CODES:
        return True
    try:
        return hasattr(connection, "isAlive") and connection.isAlive() != 1
    except libvirt.libvirtError:
        return True


class Libvirt:
    """libvirt on one host, as `libvirt_port.Hypervisor`."""

    def __init__(self, uri: str, keepalive_interval_s: float, keepalive_count: int) -> None:
        self._uri = uri
        self._keepalive = (max(1, round(keepalive_interval_s)), keepalive_count)

    @_translated
    def connect(
        self, on_event: Callable[[RawEvent], None], on_over: Callable[[], None]
    ) -> Connection:
        """Open a connection and register for all that is told of."""
        connection = self._open()
        try:
            connection.registerCloseCallback(_closed, on_over)
            for event, callback in _CALLBACKS:
                connection.domainEventRegisterAny(None, event, callback, on_event)
        except BaseException:
            self.disconnect(connection)
            raise
        return connection

    @_translated
    def connect_for_calls(self) -> Connection:
        """Open a connection."""
        return self._open()

    def _open(self) -> Connection:
        _event_thread.start()
        connection = libvirt.open(self._uri)
        with contextlib.suppress(libvirt.libvirtError):  # a local driver has no keep-alive
            connection.setKeepAlive(*self._keepalive)
        return connection

    @_translated
    def disconnect(self, connection: Connection) -> None:
        """Close a connection."""
        with contextlib.suppress(libvirt.libvirtError):
            connection.unregisterCloseCallback()
        for callback in list(getattr(connection, "domainEventCallbackID", ())):
            # Each holds the connection, which would stay open, and tell its events, for ever.
            with contextlib.suppress(libvirt.libvirtError):
                connection.domainEventDeregisterAny(callback)
        connection.close()

    @_translated
    def active(self, connection: Connection) -> Sequence[Listed]:
        """Return all domains that are active, or come or go."""
        domains = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        # While it is being started, a transient domain is there and not active yet.
        domains += connection.listAllDomains(
            libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE | libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT
        )
        found = (self._listed(domain) for domain in domains)
        return list({listed.uuid: listed for listed in found if listed is not None}.values())

    @_translated
    def find(self, connection: Connection, uuid: str) -> Listed | None:
        """Return one domain that is active, or comes or goes."""
        domain = self._domain(connection, uuid)
        if domain is None:
            return None
        try:
            if domain.isActive() != 1 and domain.isPersistent() == 1:
                return None
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None  # it ended between the two questions
            raise
        return self._listed(domain)

    def _domain(self, connection: Connection, uuid: str) -> Domain:
        try:
            return connection.lookupByUUIDString(uuid)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _needed(self, connection: Connection, uuid: str) -> Domain:
        domain = self._domain(connection, uuid)
        if domain is None:
            raise DriverError(f"VM {uuid} does not run here")
        return domain

    def _listed(self, domain: Domain) -> Listed | None:
        """Return the domain as it is now; None if it has just ended."""
        uuid = domain.UUIDString()
        try:
            state, reason = domain.state(0)
            own = self._own(domain, uuid)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise
        running = state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)
        paused = state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED)
        return Listed(
            uuid=uuid,
            name=domain.name(),
            own=own,
            paused=reason if paused else None,
            running=reason if running else None,
            passing=not (running or paused),
        )

    def _own(self, domain: Domain, uuid: str) -> Ownership | None:
        try:
            element = domain.metadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                METADATA_NAMESPACE,
                libvirt.VIR_DOMAIN_AFFECT_CURRENT,
            )
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                return None
            raise
        return ownership(element, uuid)

    @_translated
    def create(self, connection: Connection, xml: str) -> None:
        """Start a transient domain, which outlives this connection."""
        connection.createXML(xml, 0)

    @_translated
    def restore(self, connection: Connection, file: str, xml: str) -> None:
        """Start a domain from saved memory and let it run."""
        connection.restoreFlags(file, xml, libvirt.VIR_DOMAIN_SAVE_RUNNING)

    @_translated
    def save(self, connection: Connection, uuid: str, file: str) -> None:
        """Save a domain's memory and end it."""
        self._needed(connection, uuid).saveFlags(file, None, 0)

    @_translated
    def saved_xml(self, connection: Connection, file: str) -> str:
        """Return the XML in a file of saved memory."""
        flags = libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE
        return str(connection.saveImageGetXMLDesc(file, flags))

    @_translated
    def define_saved_xml(self, connection: Connection, file: str, xml: str) -> None:
        """Replace the XML in a file of saved memory."""
        connection.saveImageDefineXML(file, xml, 0)

    @_translated
    def destroy(self, connection: Connection, uuid: str) -> None:
        """End a domain's QEMU."""
        domain = self._domain(connection, uuid)
        if domain is not None:
            try:
                domain.destroyFlags(0)
            except libvirt.libvirtError as error:
                gone = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)
                if error.get_error_code() not in gone:
                    raise

    @_translated
    def press_power_button(self, connection: Connection, uuid: str) -> None:
        """Press the guest's ACPI power button."""
        domain = self._needed(connection, uuid)
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)

    @_translated
    def reset(self, connection: Connection, uuid: str) -> None:
        """Reset the machine."""
        self._needed(connection, uuid).reset(0)

    @_translated
    def resume(self, connection: Connection, uuid: str) -> None:
        """Let the CPUs run."""
        self._needed(connection, uuid).resume()

    @_translated
    def migrate(
        self, connection: Connection, uuid: str, libvirtd: str, stream: str, terms: Terms
    ) -> None:
        """Move a domain to another host."""
        domain = self._needed(connection, uuid)
        with contextlib.suppress(libvirt.libvirtError):  # some versions want the job to be there
            domain.migrateSetMaxDowntime(terms.down_time_ms, 0)
        domain.migrateToURI3(libvirtd, sending_parameters(stream, terms), sending_flags(terms))

    @_translated
    def recover(
        self, connection: Connection, uuid: str, libvirtd: str, stream: str, terms: Terms
    ) -> None:
        """Go on with a domain's post-copy that broke off."""
        domain = self._needed(connection, uuid)
        flags = sending_flags(terms) | libvirt.VIR_MIGRATE_POSTCOPY_RESUME
        domain.migrateToURI3(libvirtd, sending_parameters(stream, terms), flags)

    @_translated
    def copying(self, connection: Connection, uuid: str) -> Copying | None:
        """Return how far a domain's job has come."""
        domain = self._domain(connection, uuid)
        figures = domain.jobStats(0) if domain is not None else {}
        if figures.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
            return None
        state, reason = domain.state(0)
        paused = reason if state == libvirt.VIR_DOMAIN_PAUSED else None
        return read_copying(
            figures,
            post_copy=paused == libvirt.VIR_DOMAIN_PAUSED_POSTCOPY,
            stopped=paused == libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
        )

    @_translated
    def live_xml(self, connection: Connection, uuid: str, *, secrets: bool = False) -> str:
        """Return the XML of a running domain as another host would be given it."""
        flags = libvirt.VIR_DOMAIN_XML_MIGRATABLE
        flags |= libvirt.VIR_DOMAIN_XML_SECURE if secrets else 0
        return str(self._needed(connection, uuid).XMLDesc(flags))

    @_translated
    def allow_down_time(self, connection: Connection, uuid: str, down_time_ms: int) -> None:
        """Allow a domain that is moved to stand still for so long."""
        self._needed(connection, uuid).migrateSetMaxDowntime(down_time_ms, 0)

    @_translated
    def start_post_copy(self, connection: Connection, uuid: str) -> None:
        """Let a domain that is moved go on at its destination at once."""
        self._needed(connection, uuid).migrateStartPostCopy(0)

    @_translated
    def suspend(self, connection: Connection, uuid: str) -> None:
        """Stop the CPUs of a domain that is moved."""
        self._needed(connection, uuid).suspend()

    @_translated
    def abort_job(self, connection: Connection, uuid: str) -> None:
        """Abort a domain's job."""
        domain = self._domain(connection, uuid)
        if domain is not None:
            try:
                domain.abortJob()
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                    raise

    @_translated
    def has_no_space(self, connection: Connection, uuid: str) -> bool:
        """Whether a disk stopped for want of space."""
        errors = self._needed(connection, uuid).diskErrors(0)
        return libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE in errors.values()

    @_translated
    def ask_agent(self, connection: Connection, uuid: str, command: str, timeout_s: int) -> str:
        """Return the guest agent's answer."""
        domain = self._needed(connection, uuid)
        words = json.dumps({"execute": command})
        return str(libvirt_qemu.qemuAgentCommand(domain, words, timeout_s, 0))

    @_translated
    def statistics(self, connection: Connection) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return the figures of all active domains in one call."""
        answer = connection.getAllDomainStats(STATISTICS, STATISTICS_FLAGS)
        return [(domain.UUIDString(), figures) for domain, figures in answer]

    @_translated
    def set_balloon(self, connection: Connection, uuid: str, size_kib: int) -> None:
        """Ask a guest to make do with so much memory."""
        domain = self._needed(connection, uuid)
        domain.setMemoryFlags(size_kib, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    @_translated
    def figures(self, connection: Connection) -> HostFigures:
        """Return what is known of the host."""
        return HostFigures(
            host_name=connection.getHostname(),
            cpus=connection.getInfo()[2],
            qemu_version=connection.getVersion(),
            libvirt_version=connection.getLibVersion(),
            capabilities_xml=connection.getCapabilities(),
        )

    @_translated
    def domain_capabilities(
        self, connection: Connection, architecture: str, virtualization: str
    ) -> str:
        """Return libvirt's XML on what domains may be."""
        answer = connection.getDomainCapabilities(None, architecture, "q35", virtualization, 0)
        return str(answer)


def sending_flags(terms: Terms) -> int:
    """Return virDomainMigrateFlags.

    The domain stands still at its destination, where it runs once the source has nothing of it for
    certain. Only post-copy cannot wait for that: there, from the switch-over on, libvirt never
    lets the source run again.
    """
    flags = (
        libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_PEER2PEER
        | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
        | libvirt.VIR_MIGRATE_AUTO_CONVERGE
        | libvirt.VIR_MIGRATE_UNSAFE  # that the folder is shared is known by its id
    )
    own = libvirt.VIR_MIGRATE_POSTCOPY if terms.may_post_copy else libvirt.VIR_MIGRATE_PAUSED
    return int(flags | own)


def sending_parameters(stream: str, terms: Terms) -> dict[str, str | int]:
    """Return the typed parameters of a migration; libvirt counts bandwidth in MiB/s."""
    parameters: dict[str, str | int] = {libvirt.VIR_MIGRATE_PARAM_URI: stream}
    if terms.there:
        parameters[libvirt.VIR_MIGRATE_PARAM_DEST_XML] = terms.there
    if terms.bandwidth_bytes_per_s is not None:
        mib_per_s = max(1, terms.bandwidth_bytes_per_s >> 20)
        parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = mib_per_s
        if terms.may_post_copy:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY] = mib_per_s
    return parameters


# libvirt calls these from its event thread; each only passes on what it was told.


def _closed(connection: Connection, reason: int, on_over: Callable[[], None]) -> None:
    on_over()


def _lifecycle(
    connection: Connection,
    domain: Domain,
    event: int,
    detail: int,
    on_event: Callable[[RawEvent], None],
) -> None:
    uuid = domain.UUIDString()
    on_event(RawEvent(kind=RawKind.LIFECYCLE, uuid=uuid, event=event, detail=detail))


def _io_error(connection: Connection, domain: Domain, *rest: Any) -> None:  # noqa: ANN401
    _path, _alias, _action, reason, on_event = rest
    on_event(RawEvent(kind=RawKind.IO_ERROR, uuid=domain.UUIDString(), text=reason or ""))


def _reboot(connection: Connection, domain: Domain, on_event: Callable[[RawEvent], None]) -> None:
    on_event(RawEvent(kind=RawKind.REBOOT, uuid=domain.UUIDString()))


def _agent(
    connection: Connection,
    domain: Domain,
    state: int,
    reason: int,
    on_event: Callable[[RawEvent], None],
) -> None:
    on_event(RawEvent(kind=RawKind.AGENT, uuid=domain.UUIDString(), event=state))


_CALLBACKS = (
    (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, _lifecycle),
    (libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, _io_error),
    (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, _reboot),
    (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, _agent),
)
