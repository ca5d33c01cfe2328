"""What the host can do: read from the driver, remembered, and reported when it changes."""

from __future__ import annotations

import asyncio
import platform
from pathlib import Path

import msgspec
import structlog

from events.types.host import Capabilities
from events.types.host_memory import Swap
from hostagent.driver import Driver, DriverError
from hostagent.files import read_bounded, write_atomically
from hostagent.memory_keeper import MemoryKeeper
from hostagent.power import Power
from hostagent.timings import Timings

AGENT_VERSION = "0.1.0"
COMPATIBILITY_VERSIONS = ("1.0",)
"""The compatibility versions of clusters whose features this release of the agent knows."""
CAPABILITIES_NAME = "capabilities.json"
FREE_STORAGE_CHANGE = 0.1
"""Free storage is reported anew when it changed by this part of what was reported."""

SAVED_CHANGE = 0.01
"""What KSM saves is reported anew when it changed by this part of the host's memory."""

SWAP_USED_CHANGE = 0.05
"""What is swapped out is reported anew when it changed by this part of the swap there is."""
SWAP_PRESSURE_CHANGE = 5
"""So many percent less or more, and more than nothing after nothing, are worth a word."""

_log = structlog.get_logger(__name__)


class Abilities:
    """One host's abilities, kept in its state folder so that hello need not wait for libvirt."""

    def __init__(
        self,
        driver: Driver,
        folder: Path,
        timings: Timings,
        *,
        migration_address: str = "",
        power: Power | None = None,
        memory: MemoryKeeper | None = None,
    ) -> None:
        self._memory = memory
        self._power = power
        self._migration_address = migration_address
        self._driver = driver
        self._path = folder / CAPABILITIES_NAME
        self._timings = timings
        self._reported: Capabilities | None = None

    async def known(self) -> Capabilities:
        """Return what the host can do, read anew; as last known where that cannot be found out.

        It is said at each hello, which is what a refresh asks for. Waits while it was never known.
        """
        while True:
            able = await self._read(anew=True) or self._reported or self._recall()
            if able is not None:
                self._remember(able)
                return able
            await asyncio.sleep(self._timings.unknown_retry_s)

    async def changed(self) -> Capabilities | None:
        """Return what the host can do if that is worth a word, else None."""
        able = await self._read()
        if able is None or not _differs(able, self._reported):
            return None
        self._remember(able)
        return able

    async def _read(self, *, anew: bool = False) -> Capabilities | None:
        try:
            async with asyncio.timeout(self._timings.call_timeout_s):
                able = await self._driver.capabilities(anew=anew)
        except (DriverError, TimeoutError) as error:
            _log.warning("abilities not known", error=repr(error))
            return None
        ksm = await asyncio.to_thread(self._memory.ksm) if self._memory is not None else None
        return msgspec.structs.replace(
            able,
            ksm=ksm,
            agent_version=AGENT_VERSION,
            hostname=able.hostname or platform.node(),
            migration_address=self._migration_address,
            compatibility_versions=COMPATIBILITY_VERSIONS,
            fence_agents=self._power.installed() if self._power is not None else (),
        )

    def _remember(self, able: Capabilities) -> None:
        if _differs(able, self._recall()):
            write_atomically(self._path, msgspec.json.encode(able), durable=False)
        self._reported = able

    def _recall(self) -> Capabilities | None:
        try:
            return msgspec.json.decode(read_bounded(self._path), type=Capabilities)
        except (OSError, ValueError):
            return None


def _differs(able: Capabilities, reported: Capabilities | None) -> bool:
    """Whether abilities are worth a word: free storage, and what KSM saves, change all the time."""
    if reported is None:
        return True
    free, saved = reported.storage_free_bytes, reported.ksm.saved_bytes if reported.ksm else 0
    ksm = able.ksm and msgspec.structs.replace(able.ksm, saved_bytes=saved)
    settled = msgspec.structs.replace(able, storage_free_bytes=free, ksm=ksm, swap=reported.swap)
    if settled != reported or _swap_differs(able.swap, reported.swap):
        return True
    if abs((able.ksm.saved_bytes if able.ksm else 0) - saved) > SAVED_CHANGE * able.memory_bytes:
        return True
    return abs(able.storage_free_bytes - free) > FREE_STORAGE_CHANGE * max(1, free)


def _swap_differs(now: Swap | None, before: Swap | None) -> bool:
    """Whether it is worth a word; a host that is about to swap must not report at every look."""
    if now is None or before is None or now.total_bytes != before.total_bytes:
        return now != before
    if abs(now.used_bytes - before.used_bytes) > SWAP_USED_CHANGE * now.total_bytes:
        return True
    change = now.pressure_percent - before.pressure_percent
    return (
        abs(change) >= SWAP_PRESSURE_CHANGE or before.pressure_percent <= 0 < now.pressure_percent
    )
