"""Keeps CPUs that are a VM's alone free of all other VMs: moves their threads elsewhere.

libvirt pins the virtual CPUs of a VM that has CPUs of its own when it starts. Here all QEMUs of the
host are looked at: virtual CPUs that have none of their own, and every other thread, run on the
CPUs that are left. It is done anew every few seconds, and at once when a VM comes or goes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from events.types.vm_tuning import members
from events.wire.agent import IntentVm
from hostagent.desk import Desk
from hostagent.files import read_bounded

Cpus = frozenset[int]
ONLINE = Path("sys/devices/system/cpu/online")
ONLINE_BYTES_MAX = 4_096
LOOK_INTERVAL_S = 10.0
"""Threads that QEMU made meanwhile are seen to after so long."""
_VCPU = re.compile(r"CPU (\d+)/")

_log = structlog.get_logger(__name__)


class Threads(Protocol):
    """The threads of the host's QEMUs."""

    def machines(self) -> Mapping[str, int]:
        """Return the pid of each VM's QEMU, by the VM's id."""
        ...

    def names(self, pid: int) -> Mapping[int, str]:
        """Return the names of a process's threads, by their ids; none where it is gone."""
        ...

    def allowed(self, thread: int) -> Cpus | None:
        """Return the CPUs that a thread may run on; None where it is gone."""
        ...

    def confine(self, thread: int, cpus: Cpus) -> None:
        """Have a thread run on these CPUs alone; raises OSError."""
        ...


class CpuSetup(msgspec.Struct, frozen=True):
    """What is needed: `root` has the kernel's files; `marker` is there while threads are kept off
    CPUs, so that an agent that comes back knows to let them run anywhere again.
    """

    threads: Threads
    root: Path
    marker: Path


class Places(msgspec.Struct, frozen=True):
    """Where VMs run: `own` are the CPUs that are some VM's alone, `pins` those of virtual CPUs."""

    own: Cpus
    pins: Mapping[str, Mapping[int, Cpus]]


def places_of(items: Iterable[IntentVm]) -> Places:
    """Return what the VMs that are to be on a host come to."""
    own: set[int] = set()
    pins: dict[str, dict[int, Cpus]] = {}
    for item in items:
        if item.spec is None:
            continue
        dedicated = item.spec.dedicated
        chosen = dedicated.pins if dedicated else item.spec.configuration.tuning.pins
        pins[item.vm] = {pin.vcpu: members(pin.cpus) for pin in chosen}
        own |= members(dedicated.cpus) if dedicated else set()
    return Places(frozenset(own), pins)


class CpuKeeper:
    """Keeps one host's CPUs, by what lies at the desk."""

    def __init__(self, desk: Desk, setup: CpuSetup) -> None:
        self._desk = desk
        self._setup = setup
        self._seen: object = None
        self._looked_at = 0.0

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._desk.timings.cpu_interval_s)
            try:
                await self._look_where_due()
            except Exception as error:  # noqa: BLE001 - never the end of the agent
                _log.warning("CPUs not looked at", error=repr(error))

    async def _look_where_due(self) -> None:
        if not self._desk.welcomed:
            return  # nothing is known yet of what is to be here
        places = places_of(self._desk.intent.values())
        now = asyncio.get_running_loop().time()
        seen = (places, frozenset(self._desk.domains))
        if seen == self._seen and now - self._looked_at < LOOK_INTERVAL_S:
            return
        await asyncio.to_thread(self.look, places)
        self._seen, self._looked_at = seen, now

    def look(self, places: Places) -> None:
        """See to all threads, where a VM has CPUs of its own, or had some; raises OSError."""
        marker = self._setup.marker
        if not places.own and not marker.exists():
            return
        marker.touch()
        online = _online(self._setup.root / ONLINE)
        left = online - places.own
        if not left:
            _log.warning("no CPU is left for anything but VMs that have their own")
            left = online
        moved = 0
        for vm, pid in self._setup.threads.machines().items():
            if vm in places.pins:
                moved += self._confine(pid, places.pins[vm], left, online)
        if moved:
            _log.info("threads moved", threads=moved, own=sorted(places.own))
        if not places.own:
            marker.unlink()

    def _confine(self, pid: int, pins: Mapping[int, Cpus], left: Cpus, online: Cpus) -> int:
        moved = 0
        threads = self._setup.threads
        for thread, name in threads.names(pid).items():
            vcpu = _VCPU.match(name)
            pinned = pins.get(int(vcpu[1])) if vcpu else None
            wanted = (pinned or left) & online
            there = threads.allowed(thread)
            if there is None or not wanted or there == wanted:
                continue
            try:
                threads.confine(thread, wanted)
            except OSError as error:
                _log.info("a thread was not moved", thread=thread, error=str(error))
                continue
            moved += 1
        return moved


def _online(path: Path) -> Cpus:
    return members(read_bounded(path, bytes_max=ONLINE_BYTES_MAX).decode().strip())
