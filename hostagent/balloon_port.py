"""What the keeper of a host's memory asks of a hypervisor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from hostagent.records import RunKey


class BalloonReading(msgspec.Struct, frozen=True, kw_only=True):
    """What the hypervisor says of one guest's memory; `usable_bytes` None if the guest does not."""

    defined_bytes: int
    current_bytes: int
    usable_bytes: int | None = None


class Balloons(Protocol):
    """What is asked of a hypervisor."""

    async def read(self) -> Mapping[RunKey, BalloonReading]:
        """Return the memory of all managed guests; raises DriverError."""
        ...

    async def set(self, key: RunKey, size_bytes: int) -> None:
        """Ask a guest to make do with so much memory; raises DriverError."""
        ...
