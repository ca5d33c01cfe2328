"""The notifier's own process, where its disk does not tell what became of a write."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from events.envelope import NewEvent
from events.log.memory import MemoryLog
from events.log.port import Appended
from events.stream.direct import DirectStream
from events.types.data_center import DataCenterCreated
from notifier.notification import Notification
from notifier.process import Notifier
from tests.contract.sample_events import command

T = TypeVar("T")


class Desk:
    """A receiver that tells whoever waits when it has been told something."""

    transport = "desk"
    at_once_max = 3

    def __init__(self) -> None:
        self.told: asyncio.Queue[Notification] = asyncio.Queue()

    def addresses(self, name: str) -> tuple[str, ...]:
        return (name,)

    async def deliver(self, address: str, notifications: Sequence[Notification]) -> None:
        del address
        for each in notifications:
            await self.told.put(each)

    async def close(self) -> None:
        pass


class Unheard(Notifier):
    """Its first write is done, and comes back as a failure of the disk."""

    failed = False

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        result = await super()._call(function, *arguments)
        if getattr(function, "__name__", "") == "take" and not self.failed:
            self.failed = True
            raise OSError(5, "it was written, and that was not heard")
        return result


async def test_what_was_queued_is_told_also_where_the_disk_said_that_it_was_not(
    tmp_path: Path,
) -> None:
    log, desk = MemoryLog(), Desk()
    stream = f"data_center/{uuid.uuid4()}"
    created = DataCenterCreated(name="Prague", compatibility_version="1.0")
    outcome = await log.append(command({}, NewEvent(stream, created)))
    assert isinstance(outcome, Appended)
    notifier = Unheard(
        DirectStream(log, wait_s=0.2), "include:*(desk:ops)", (desk,), tmp_path, start="beginning"
    )
    running = asyncio.create_task(notifier.run())
    try:
        told = await asyncio.wait_for(desk.told.get(), 10)
        assert (notifier.failed, told.position) == (True, 1)
        await asyncio.sleep(0.3)  # long enough for it to be taken in again
        assert desk.told.empty()
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
