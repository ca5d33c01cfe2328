"""Guests' balloons, read and moved through libvirt, which counts them in KiB."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hostagent.balloon_port import BalloonReading
from hostagent.libvirt_port import Hypervisor, Listed
from hostagent.libvirt_samples import KIB
from hostagent.libvirt_watch import Watch
from hostagent.records import RunKey


class LibvirtBalloons:
    """The balloons of this host's managed guests. `needed` raises for a run that is not here."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        watch: Watch,
        needed: Callable[[str, int], Awaitable[Listed]],
    ) -> None:
        self._hypervisor = hypervisor
        self._watch = watch
        self._needed = needed

    async def read(self) -> Mapping[RunKey, BalloonReading]:
        """Return the memory of all managed guests; raises DriverError."""
        answer = await self._watch.call(self._hypervisor.statistics)
        known = self._watch.interpreter.incarnation
        runs = ((RunKey(uuid, known(uuid)), record) for uuid, record in answer)
        return {key: reading(record) for key, record in runs if key.incarnation}

    async def set(self, key: RunKey, size_bytes: int) -> None:
        """Ask a guest to make do with so much memory; raises DriverError."""
        await self._needed(key.vm, key.incarnation)
        await self._watch.call(
            lambda libvirt: self._hypervisor.set_balloon(libvirt, key.vm, size_bytes // KIB)
        )


def reading(record: Mapping[str, Any]) -> BalloonReading:
    """Read one record of libvirt's bulk statistics.

    A guest without the balloon's driver never updated its statistics: what is usable is not known.
    """
    maximum = int(record.get("balloon.maximum", 0)) * KIB
    current = int(record.get("balloon.current", 0)) * KIB
    usable = record.get("balloon.usable", record.get("balloon.unused"))
    if not record.get("balloon.last-update"):
        usable = None
    return BalloonReading(
        defined_bytes=maximum,
        current_bytes=current or maximum,
        usable_bytes=None if usable is None else int(usable) * KIB,
    )
