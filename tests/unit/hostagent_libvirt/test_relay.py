"""What the source's relay makes of libvirt's last message, and how it knows that memory flows."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from events.types.job import Job, JobKind, Sending
from events.types.vm_tuning import CpuPin, Dedicated
from hostagent.convergence import GO_ON, Terms
from hostagent.libvirt_events import Paused
from hostagent.migration_line import Streams
from hostagent.migration_relay import CHECK, QEMU, Places, RelayedMoves
from hostagent.migration_rpc import FINISH, PAUSED_FLAG, REMOTE_PROGRAM
from tests.harness.memory_line import MemoryNetwork
from tests.unit.hostagent_libvirt.specs import VM
from tests.unit.hostagent_libvirt.test_host import Rig

LIVE = 1
ORDER = Sending(destination="destination", address="")
JOB = Job(
    id="m/copy",
    kind=JobKind.VM_MIGRATE,
    vm=VM,
    incarnation=1,
    sending=ORDER,
)


def finish() -> bytes:
    """Return libvirt's message that ends a migration, with its flags and `cancelled` at the end."""
    header = struct.pack(">IIIiIi", REMOTE_PROGRAM, 1, FINISH, 0, 7, 0)
    body = header + struct.pack(">IIIi", 0, 0, LIVE, 0)
    return struct.pack(">I", 4 + len(body)) + body


class Source:
    """A source whose libvirt says its last word, and what the destination hears of it."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self.places = Places(folder=folder / "sockets")
        self.moves = RelayedMoves(self.rig.driver, self.places)
        self.heard: dict[str, bytes] = {}
        self.flows, self.looked = asyncio.Event(), asyncio.Event()
        self._network = MemoryNetwork()
        self._network.serve("destination", self._serve)
        self._channel = ""

    async def _serve(self, _source: str, streams: Streams) -> None:
        channel = self._channel
        if channel == CHECK:
            size = await streams[0].readexactly(4)
            self.heard[CHECK] = size + await streams[0].readexactly(int.from_bytes(size))
            streams[1].write(b"\n")
            return
        if channel == QEMU:
            self.flows.set()
            await self.looked.wait()
        self.heard[channel] = await streams[0].read()

    async def dial(self, channel: str) -> Streams:
        """Connect to the destination."""
        self._channel = channel
        streams = self._network.connect("source", ORDER)
        await asyncio.sleep(0)
        return streams

    def speak(self, channel: str, message: bytes) -> None:
        """Say something to the relay as libvirtd or QEMU do; in a thread."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.places.of("m") / f"{channel}.sock"))
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1024):
                pass


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Source]:
    source = Source(tmp_path)
    await source.rig.driver.open()
    yield source
    await source.rig.driver.close()


@pytest.mark.parametrize(
    ("policy", "state", "expected"),
    [
        ("post-copy", Paused.MIGRATION, LIVE | PAUSED_FLAG),
        ("post-copy", Paused.POSTCOPY, LIVE),
        ("none", Paused.MIGRATION, LIVE),
    ],
)
async def test_only_a_vm_that_is_in_post_copy_runs_where_it_came_to(
    source: Source, policy: str, state: int, expected: int
) -> None:
    """Without post-copy in its terms, the flag is in libvirt's own message: see `sending_flags`."""
    source.rig.libvirt.put(VM, 1, state)
    terms = Terms(down_time_ms=100, may_post_copy=policy == "post-copy")

    def say(call: str) -> None:
        if call == "migrate":
            source.speak("libvirt", finish())

    source.rig.libvirt.before = say
    await source.moves.send(JOB, source.dial, terms, lambda _seen: GO_ON)

    flags, cancelled = struct.unpack(">II", source.heard["libvirt"][-8:])
    assert (flags, cancelled) == (expected, 0)


async def test_while_memory_flows_the_hypervisor_still_sends_whatever_libvirt_says(
    source: Source,
) -> None:
    source.rig.libvirt.put(VM, 1, Paused.POSTCOPY_FAILED)
    assert not await source.moves.still_sends(JOB)
    found: list[bool] = []

    def say(call: str) -> None:
        if call == "migrate":
            source.speak("qemu", b"memory")

    async def look() -> None:
        await source.flows.wait()
        found.append(await source.moves.still_sends(JOB))
        seen = await source.moves.unattended(JOB)
        found.append(seen is not None and seen.post_copy)
        source.looked.set()

    source.rig.libvirt.before = say
    looking = asyncio.create_task(look())
    terms = Terms(down_time_ms=100, may_post_copy=True)
    await source.moves.send(JOB, source.dial, terms, lambda _seen: GO_ON)
    await looking

    assert found == [True, True]
    source.rig.libvirt.before = lambda _call: None
    source.rig.libvirt.put(VM, 1, Paused.POSTCOPY_FAILED)
    assert not await source.moves.still_sends(JOB)
    assert await source.moves.unattended(JOB) is None


async def test_a_vm_has_other_cpus_of_its_own_where_it_comes_to(source: Source) -> None:
    own = Dedicated(pins=(CpuPin(vcpu=0, cpus="3"),), cpus="3")
    sending = msgspec.structs.replace(ORDER, dedicated=own)
    job = msgspec.structs.replace(JOB, sending=sending)
    source.rig.libvirt.put(VM, 1, Paused.MIGRATION)
    await source.moves.send(job, source.dial, Terms(down_time_ms=100), lambda _seen: GO_ON)

    # the destination compares what will be there, which libvirt is then told as well
    size = int.from_bytes(source.heard[CHECK][:4])
    compared = source.heard[CHECK][4 : 4 + size].decode()
    told = source.rig.libvirt.terms.there
    pin = '<cputune><vcpupin vcpu="0" cpuset="3"/></cputune>'
    assert pin in compared
    assert pin in told
    # only libvirt is told the secrets, and they never land in a log
    assert ("<secret/>" in compared, "<secret/>" in told) == (False, True)
    assert "secret" not in repr(source.rig.libvirt.terms)

    source.rig.libvirt.put(VM, 1, Paused.MIGRATION)
    await source.moves.send(JOB, source.dial, Terms(down_time_ms=100), lambda _seen: GO_ON)
    assert source.rig.libvirt.terms.there == ""
