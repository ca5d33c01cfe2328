"""Listening for hosts that write their kernel's dump, as fence_kdump_send tells it by UDP.

A message is eight bytes: a magic number and the version 1, in either byte order (fence-agents,
fence_kdump). Anybody on the network may send one, in a host's name too: it proves nothing, says
nothing of a host that is heard, and only makes the fencing of a silent one wait, for so long as the
settings allow.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import struct
import time
from collections.abc import Callable, Sequence

import msgspec
import structlog

from commands.gateway.contacts import Contacts
from commands.gateway.view import GatewayView
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.handler import ContextSource, Handler
from commands.state.host import HOST, HostState
from events.types.host_power import HostKdumpEnded, HostKdumpStarted

MAGIC = 0x1B302A40
MESSAGES = frozenset({struct.pack("<II", MAGIC, 1), struct.pack(">II", MAGIC, 1)})
PORT = 7410
ADDRESSES_MAX = 4_096
LOOK_INTERVAL_S = 1.0
RESOLVED_FOR_S = 60.0
BIND_RETRY_S = 60.0
DUMP = "kdump/"
"""Under this, with their ids, engines share among the contacts when hosts last said that they dump:
a host may send to one engine only, and another must not take its silence there for the end."""

log = structlog.get_logger(__name__)


class KdumpPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen (port 0: any), and how long no message means that the dump is written."""

    host: str
    port: int = PORT
    ended_after_s: float = 90.0


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    """When the last message came from an address: by the clock that never jumps, and the other."""

    at_s: float
    time: dt.datetime


class KdumpListener:
    """Turns messages into `host.kdump_started` and `host.kdump_ended`; several engines may do so.

    A host is known by the address that an admin gave, or by the one at which it takes VMs in. One
    that is not silent writes no dump, whoever says so.
    """

    def __init__(
        self,
        handler: Handler,
        view: GatewayView,
        contacts: Contacts,
        source: ContextSource,
        place: KdumpPlace,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handler = handler
        self._view = view
        self._contacts = contacts
        self._source = source
        self._place = place
        self._monotonic = monotonic
        self._heard: dict[str, _Message] = {}
        self._dumps: dict[str, tuple[float, dt.datetime | None]] = {}
        self._resolved: dict[str, tuple[float, frozenset[str]]] = {}
        self.port = 0
        """The port that is listened on, once it is."""

    def message(self, data: bytes, address: str) -> None:
        """Take in a datagram; what is no message of fence_kdump is dropped."""
        if data not in MESSAGES:
            return
        if address not in self._heard and len(self._heard) >= ADDRESSES_MAX:
            del self._heard[min(self._heard, key=lambda each: self._heard[each].at_s)]
        self._heard[address] = _Message(at_s=self._monotonic(), time=self._source().time)

    async def run(self) -> None:
        """Listen for ever; a port that cannot be had is tried again now and then."""
        while True:
            try:
                await self._listen()
            except OSError as error:
                log.error("kernel dumps are not listened for", reason=str(error))  # noqa: TRY400
                await asyncio.sleep(BIND_RETRY_S)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        transport, _protocol = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=(self._place.host, self._place.port)
        )
        try:
            self.port = transport.get_extra_info("sockname")[1]
            while True:
                await asyncio.sleep(LOOK_INTERVAL_S)
                try:
                    await self.look()
                except Exception as error:  # noqa: BLE001 - it is looked at again in a moment
                    log.warning("a kernel dump is not recorded", reason=repr(error))
        finally:
            transport.close()

    async def look(self) -> None:
        """Record which hosts began, and which ended, to write a dump."""
        now = self._monotonic()
        limit = now - self._place.ended_after_s
        self._heard = {place: at for place, at in self._heard.items() if at.at_s > limit}
        hosts = [host for host in self._view.hosts.values() if _may_dump(host)]
        said: dict[str, dt.datetime] = {}
        for host in hosts:
            heard = await self._address(host, now)
            if heard is None:
                continue
            said[f"{DUMP}{host.id}"] = self._heard[heard].time
            if not host.power.kdumping and host.power.kdump_detection:
                await self._record(host, heard)
        if said:
            await self._contacts.store(said)
        await self._end([host for host in hosts if host.power.kdumping], now)

    async def _end(self, dumping: Sequence[HostState], now: float) -> None:
        """Record the ends: no engine has heard of the dump while this one looked on."""
        shared = await self._contacts.read() if dumping else {}
        known, self._dumps = self._dumps, {}
        for host in dumping:
            latest = shared.get(f"{DUMP}{host.id}")
            since, before = known.get(host.id, (now, latest))
            if latest is not None and latest != before:
                since, before = now, latest
            if now - since > self._place.ended_after_s:
                await self._record(host, None)
            else:
                self._dumps[host.id] = (since, before)

    async def _address(self, host: HostState, now: float) -> str | None:
        """Return the address from which a host said that it dumps; None where it did not."""
        if not self._heard:
            return None
        addresses = await self._addresses(host, now)
        return next((place for place in self._heard if place in addresses), None)

    async def _record(self, host: HostState, heard: str | None) -> None:
        def decide(world: World, context: Context) -> Decision:
            del context
            state = world.get(HOST, host.id)
            if state is None or state.power.kdumping == (heard is not None):
                return Decision(id=host.id)
            if heard is not None and not _may_dump(state):
                return Decision(id=host.id)
            event: HostKdumpStarted | HostKdumpEnded = HostKdumpEnded(name=state.name)
            if heard is not None:
                event = HostKdumpStarted(name=state.name, address=heard)
            return Decision(id=host.id, events=on(HOST.stream(host.id), event))

        await self._handler.handle(decide, self._source, principal="gateway")

    async def _addresses(self, host: HostState, now: float) -> frozenset[str]:
        names = {host.address}
        if host.capabilities is not None:
            names.add(host.capabilities.migration_address.rpartition(":")[0].strip("[]"))
        found: set[str] = set()
        for name in names - {""}:
            found |= await self._resolve(name, now)
        return frozenset(found)

    async def _resolve(self, name: str, now: float) -> frozenset[str]:
        try:
            return frozenset({str(ipaddress.ip_address(name))})
        except ValueError:
            pass
        until, known = self._resolved.get(name, (0.0, frozenset()))
        if now < until:
            return known
        try:
            answers = await asyncio.get_running_loop().getaddrinfo(name, None)
            known = frozenset(str(answer[4][0]) for answer in answers)
        except OSError:
            known = frozenset()
        if len(self._resolved) >= ADDRESSES_MAX:
            self._resolved.clear()
        self._resolved[name] = (now + RESOLVED_FOR_S, known)
        return known


def _may_dump(host: HostState) -> bool:
    """Tell whether a host's word of a dump counts: it is looked for, and the host is not heard."""
    looked_for = host.power.kdump_detection or host.power.kdumping
    return looked_for and host.silent and not host.removed


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, listener: KdumpListener) -> None:
        self._listener = listener

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Hand a datagram on, by the address that it came from."""
        address = addr[0]
        self._listener.message(data, address.removeprefix("::ffff:"))
