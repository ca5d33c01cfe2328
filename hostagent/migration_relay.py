"""How libvirt's VMs travel: two channels between Unix sockets, carried over the agents' line.

The source's libvirtd and QEMU connect to sockets that its agent makes; each connection goes over
the line to the destination's agent, and on to the destination's libvirtd or QEMU. libvirtd listens
on no network, and of its protocol only what a migration needs passes (`migration_rpc`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import structlog

from events.types.job import Job
from events.types.run_spec import RunSpec
from events.wire.agent import IntentVm
from hostagent.convergence import Look, Terms
from hostagent.driver import DriverError, RefusedMessageError
from hostagent.libvirt_host import HostDriver
from hostagent.migration_line import (
    CHUNK_BYTES,
    CONNECT_TIMEOUT_S,
    OK,
    Dial,
    Streams,
    migration_of,
)
from hostagent.migration_rpc import HEADER_BYTES, MESSAGE_BYTES_MAX, check, check_domain

LINGER_S = 1.0
QEMU_USERS = ("libvirt-qemu", "qemu")
CHECK_TIMEOUT_S = 10.0
XML_BYTES_MAX = 1 << 20
CHECK, LIBVIRT, QEMU = "check", "libvirt", "qemu"

_log = structlog.get_logger(__name__)


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where the host's sockets are: libvirtd's own, and the folder of those for migrations."""

    libvirtd: Path = Path("/run/libvirt/libvirt-sock")
    folder: Path = Path("/run/libvirt/chronovisor")

    def of(self, migration: str) -> Path:
        """Return the folder of one migration."""
        return self.folder / migration

    def make(self, migration: str) -> Path:
        """Make that folder, in which QEMU may make its socket; raises OSError."""
        folder = self.of(migration)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o711)
        for user in QEMU_USERS:
            with contextlib.suppress(KeyError, PermissionError):
                os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        return folder

    def remove(self, migration: str) -> None:
        """Remove what is left of one migration."""
        shutil.rmtree(self.of(migration), ignore_errors=True)


class RelayedMoves:
    """The moving half of a libvirt host."""

    opening_channel = LIBVIRT
    channels = frozenset({CHECK, LIBVIRT, QEMU})

    def __init__(self, driver: HostDriver, places: Places | None = None) -> None:
        self._driver = driver
        self._places = places or Places()

    async def prepare(self, spec: RunSpec, migration: str) -> None:
        """Be ready to take a run in."""
        self._driver.expect(spec)
        await asyncio.to_thread(self._places.make, migration)

    async def take_in(self, channel: str, item: IntentVm, outer: Streams) -> None:
        """Carry one channel of a VM that comes in to where it ends."""
        if item.receiving is None or item.spec is None:
            raise RefusedMessageError("the VM is not expected any more")
        if channel == CHECK:
            await self._answer_check(item.spec, outer)
            return
        target = self._places.libvirtd
        if channel == QEMU:
            target = self._places.of(item.receiving.migration) / "qemu.sock"
        inner = await _connect_unix(target)
        outer[1].write(OK)
        checked = item.spec if channel == LIBVIRT else None
        await _pump_both(outer, inner, checked, str(self._driver.storage_folder))

    async def _answer_check(self, spec: RunSpec, outer: Streams) -> None:
        """Compare what the source runs with what is expected, and say what differs."""
        reader, writer = outer
        writer.write(OK)
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            size = int.from_bytes(await reader.readexactly(4))
            if size > XML_BYTES_MAX:
                raise RefusedMessageError(f"a description of {size} bytes")
            xml = (await reader.readexactly(size)).decode()
        refusal = ""
        try:
            check_domain(xml, spec, str(self._driver.storage_folder))
        except RefusedMessageError as error:
            refusal = str(error)
        writer.write(refusal.replace("\n", " ").encode() + b"\n")
        await writer.drain()

    async def _ask_check(self, job: Job, dial: Dial) -> None:
        """Have the destination compare what really runs here, before anything is copied."""
        xml = (await self._driver.sender.live_xml(job.vm, job.incarnation)).encode()
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            reader, writer = await dial(CHECK)
            try:
                writer.write(len(xml).to_bytes(4) + xml)
                refusal = (await reader.readuntil(b"\n")).decode().strip()
            finally:
                writer.close()
        if refusal:
            raise DriverError(f"the destination does not take it in: {refusal}")

    async def release(self, vm: str, incarnation: int) -> None:
        """Let a VM go on that is held at the switch-over."""
        await self._driver.sender.release(vm, incarnation)

    async def forget(self, migration: str) -> None:
        """Remove what is left of a migration that is over."""
        await asyncio.to_thread(self._places.remove, migration)

    async def send(self, job: Job, dial: Dial, terms: Terms, look: Look) -> None:
        """Send a run away; raises DriverError or OSError where it failed."""
        try:
            await self._ask_check(job, dial)
        except (RefusedMessageError, asyncio.IncompleteReadError) as error:
            raise DriverError(f"the destination does not take it in: {error}") from error
        async with sockets(self._places, migration_of(job), dial) as folder:
            await self._driver.sender.send(job.vm, job.incarnation, folder, terms, look)

    async def still_sends(self, vm: str, incarnation: int) -> bool:
        """Tell whether libvirt still works on what an agent before this one began."""
        return await self._driver.sender.still_sends(vm, incarnation)


@contextlib.asynccontextmanager
async def sockets(places: Places, migration: str, dial: Dial) -> AsyncIterator[Path]:
    """Make the source's two sockets for a migration; yields their folder."""

    async def forward(
        channel: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            outer = await dial(channel)
            await _pump_both((reader, writer), outer, None, "")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, RefusedMessageError) as error:
            _log.warning("no line to the destination", channel=channel, error=repr(error))
        finally:
            writer.close()

    folder = await asyncio.to_thread(places.make, migration)
    servers = []
    try:
        for channel in (LIBVIRT, QEMU):
            path = folder / f"{channel}.sock"
            path.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(
                lambda r, w, channel=channel: forward(channel, r, w),  # type: ignore[misc]
                path,
                limit=CHUNK_BYTES,
            )
            path.chmod(0o666)  # QEMU's user connects; the folder lets nobody else pass
            servers.append(server)
        yield folder
    finally:
        for server in servers:
            server.close()
        await asyncio.to_thread(places.remove, migration)


async def _connect_unix(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a socket that its server may be about to make."""
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        while True:
            try:
                return await asyncio.open_unix_connection(path, limit=CHUNK_BYTES)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.02)


async def _pump_both(
    outer: Streams, inner: Streams, checked: RunSpec | None, storage_folder: str
) -> None:
    """Carry bytes both ways until either end closes; `checked` messages come from the outer."""
    inward = (
        _pump(outer[0], inner[1])
        if checked is None
        else _pump_messages(outer[0], inner[1], checked, storage_folder)
    )
    tasks = [asyncio.ensure_future(inward), asyncio.ensure_future(_pump(inner[0], outer[1]))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1] not in done:
            # What the other side still has to say comes through; it ends by itself.
            await asyncio.wait(tasks, timeout=LINGER_S)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        inner[1].close()
        outer[1].close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _pump_messages(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, spec: RunSpec, storage_folder: str
) -> None:
    """Carry whole libvirt messages (a length that counts itself comes first), each checked."""
    while True:
        try:
            head = await reader.readexactly(4)
        except asyncio.IncompleteReadError:
            break
        (size,) = struct.unpack(">I", head)
        if not HEADER_BYTES <= size <= MESSAGE_BYTES_MAX:
            raise RefusedMessageError(f"a message of {size} bytes")
        message = head + await reader.readexactly(size - 4)
        check(message, spec, storage_folder)
        writer.write(message)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
