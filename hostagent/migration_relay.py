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
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from events.types.job import Job
from events.types.migration import Held
from events.types.run_spec import RunSpec
from events.wire.agent import IntentVm
from hostagent.convergence import Copying, Look, Terms
from hostagent.driver import DriverError, HalfGoneError, RefusedMessageError
from hostagent.libvirt_host import HostDriver
from hostagent.libvirt_xml import on_own_cpus
from hostagent.migration_line import (
    CHUNK_BYTES,
    CONNECT_TIMEOUT_S,
    OK,
    Dial,
    Streams,
    migration_of,
)
from hostagent.migration_rpc import (
    HEADER_BYTES,
    MESSAGE_BYTES_MAX,
    check,
    check_domain,
    held_at_finish,
    is_finish,
)

LINGER_S = 1.0
QEMU_USERS = ("libvirt-qemu", "qemu")
CHECK_TIMEOUT_S = 10.0
XML_BYTES_MAX = 1 << 20
NOTICE_TIMEOUT_S, NOTICE_POLL_S = 10.0, 0.2
CHECK, RECOVER, LIBVIRT, QEMU = "check", "recover", "libvirt", "qemu"
GONE = "gone"

_log = structlog.get_logger(__name__)
EachMessage = Callable[[bytes], Awaitable[bytes]]
"""Looks at a message of libvirt's, and returns what is passed on; raises RefusedMessageError."""


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
    recovering_channel = RECOVER
    channels = frozenset({CHECK, RECOVER, LIBVIRT, QEMU})

    def __init__(self, driver: HostDriver, places: Places | None = None) -> None:
        self._driver = driver
        self._places = places or Places()
        self._streams: set[str] = set()

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
        if channel == RECOVER:
            await self._answer_recovery(item, item.receiving.migration, outer)
            return
        target = self._places.libvirtd
        if channel == QEMU:
            target = self._places.of(item.receiving.migration) / "qemu.sock"
        inner = await _connect_unix(target)
        outer[1].write(OK)
        each = self._checking(item.spec) if channel == LIBVIRT else None
        await _pump_both(outer, inner, each)

    def _checking(self, spec: RunSpec) -> EachMessage:
        async def each(message: bytes) -> bytes:
            check(message, spec, str(self._driver.storage_folder))
            return message

        return each

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
        xml = (await self._there(job)).encode()
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            reader, writer = await dial(CHECK)
            try:
                writer.write(len(xml).to_bytes(4) + xml)
                refusal = (await reader.readuntil(b"\n")).decode().strip()
            finally:
                writer.close()
        if refusal:
            raise DriverError(f"the destination does not take it in: {refusal}")

    async def _there(self, job: Job, *, secrets: bool = False) -> str:
        """Return what a VM is to be at its destination: the same, on other CPUs of its own."""
        sender = self._driver.sender
        xml = await sender.live_xml(job.vm, job.incarnation, secrets=secrets)
        own = job.sending.dedicated if job.sending is not None else None
        return xml if own is None else on_own_cpus(xml, own)

    async def _answer_recovery(self, item: IntentVm, migration: str, outer: Streams) -> None:
        """Say whether post-copy that broke off can go on with what is here, and be ready for it."""
        writer = outer[1]
        writer.write(OK)
        try:
            said = await self._what_came(item)
        except DriverError as error:
            said = str(error)
        if not said:
            await asyncio.to_thread(self._places.make, migration)
        writer.write(said.replace("\n", " ").encode() + b"\n")
        await writer.drain()

    async def _what_came(self, item: IntentVm) -> str:
        """Return why nothing can go on; "" once the hypervisor has noticed that the line broke."""
        run = (item.vm, item.incarnation)
        deadline = asyncio.get_running_loop().time() + NOTICE_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            domains = (await self._driver.domains()).managed
            found = [each for each in domains if (each.vm, each.incarnation) == run]
            if not found:
                return GONE
            if found[0].held is Held.POST_COPY:
                return ""
            await asyncio.sleep(NOTICE_POLL_S)
        return "its hypervisor has not noticed that the line broke"

    async def _ask_recovery(self, dial: Dial) -> None:
        """Have the destination be ready to go on; raises HalfGoneError if it has nothing."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S + NOTICE_TIMEOUT_S + CHECK_TIMEOUT_S):
            reader, writer = await dial(RECOVER)
            try:
                said = (await reader.readuntil(b"\n")).decode().strip()
            finally:
                writer.close()
        if said == GONE:
            raise HalfGoneError("the destination has nothing of the VM any more")
        if said:
            raise DriverError(f"the destination cannot go on: {said}")

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
        if job.sending is not None and job.sending.dedicated is not None:
            there = await self._there(job, secrets=True)
            terms = msgspec.structs.replace(terms, there=there)
        each = self._holding(job) if terms.may_post_copy else None
        async with sockets(self._places, migration_of(job), dial, self._streams, each) as folder:
            await self._driver.sender.send(job.vm, job.incarnation, folder, terms, look)

    def _holding(self, job: Job) -> EachMessage:
        """Have a VM stand still at its destination that came there without post-copy after all.

        Post-copy cannot be asked for together with that: there the destination has to let the VM
        run at once. But where all was copied before, libvirt would let it run there too, and, did
        its answer get lost, here as well. So its last message is changed on its way. Only once
        post-copy has begun, libvirt never lets the VM run here again.
        """

        async def each(message: bytes) -> bytes:
            if not is_finish(message):
                return message
            try:
                begun = await self._driver.sender.in_post_copy(job.vm, job.incarnation)
            except DriverError:
                begun = False  # then it stands still for longer than it must
            return message if begun else held_at_finish(message)

        return each

    async def recover(self, job: Job, dial: Dial, terms: Terms, look: Look) -> None:
        """Go on with post-copy that broke off; raises HalfGoneError, DriverError or OSError."""
        try:
            await self._ask_recovery(dial)
        except (RefusedMessageError, asyncio.IncompleteReadError) as error:
            raise DriverError(f"the destination does not go on: {error}") from error
        async with sockets(self._places, migration_of(job), dial, self._streams) as folder:
            await self._driver.sender.recover(job.vm, job.incarnation, folder, terms, look)

    async def still_sends(self, job: Job) -> bool:
        """Tell whether libvirt still works on what was begun before, or QEMU without libvirt."""
        if migration_of(job) in self._streams:
            return True
        return await self._driver.sender.still_sends(job.vm, job.incarnation)

    async def unattended(self, job: Job) -> Copying | None:
        """Return how far post-copy is while memory flows: libvirt may say that it broke off."""
        if migration_of(job) not in self._streams:
            return None
        sender = self._driver.sender
        if not await sender.in_post_copy(job.vm, job.incarnation):
            return None
        seen = await sender.copying(job.vm) or Copying()
        return msgspec.structs.replace(seen, post_copy=True)


@contextlib.asynccontextmanager
async def sockets(
    places: Places,
    migration: str,
    dial: Dial,
    streams: set[str],
    each: EachMessage | None = None,
) -> AsyncIterator[Path]:
    """Make the source's two sockets for a migration; yields their folder.

    While memory flows, `streams` has the migration. `each` sees libvirt's messages.
    """

    async def forward(
        channel: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            outer = await dial(channel)
            if channel == LIBVIRT:
                await _pump_both((reader, writer), outer, each)
                return
            streams.add(migration)
            try:
                await _pump_both((reader, writer), outer, None)
            finally:
                streams.discard(migration)
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


async def _pump_both(outer: Streams, inner: Streams, each: EachMessage | None) -> None:
    """Carry bytes both ways until either end closes; `each` sees what comes from the outer."""
    inward = _pump(outer[0], inner[1]) if each is None else _pump_messages(outer[0], inner[1], each)
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
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, each: EachMessage
) -> None:
    """Carry whole libvirt messages (a length that counts itself comes first), each looked at."""
    while True:
        try:
            head = await reader.readexactly(4)
        except asyncio.IncompleteReadError:
            break
        (size,) = struct.unpack(">I", head)
        if not HEADER_BYTES <= size <= MESSAGE_BYTES_MAX:
            raise RefusedMessageError(f"a message of {size} bytes")
        message = head + await reader.readexactly(size - 4)
        writer.write(await each(message))
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
