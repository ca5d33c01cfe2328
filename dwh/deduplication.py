"""Which telemetry was taken in already: for each boot of a host, all up to a sequence."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from events.wire.agent import Telemetry

Key = tuple[str, str]
"""Host and boot."""


class Mark(msgspec.Struct, frozen=True):
    """The highest sequence taken in, samples that the host lost before it, and when it came."""

    sequence: int
    dropped: int
    time: dt.datetime


class Watermarks:
    """The marks of all hosts: what the table `telemetry_watermarks` holds.

    Agents count up within a boot, over restarts of theirs too, and send one batch at a time; so
    whatever is not beyond the mark was taken in, or came too late to tell.
    """

    def __init__(self, stored: Iterable[tuple[Any, ...]] = ()) -> None:
        self._marks: dict[Key, Mark] = {
            (host, boot): Mark(sequence, dropped, time)
            for host, boot, sequence, dropped, time in stored
        }
        self.doubles = 0

    @property
    def dropped(self) -> int:
        """How many samples all hosts together lost before they could send them."""
        return sum(mark.dropped for mark in self._marks.values())

    def admit(self, telemetry: Sequence[Telemetry]) -> tuple[list[Telemetry], Mapping[Key, Mark]]:
        """Return the batches that are new, and the marks to store with them."""
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        changed: dict[Key, Mark] = {}
        fresh: list[Telemetry] = []
        for batch in telemetry:
            key = (batch.host, batch.boot)
            mark = changed.get(key) or self._marks.get(key)
            if mark is not None and batch.sequence <= mark.sequence:
                self.doubles += 1
                continue
            lost = batch.dropped + (mark.dropped if mark is not None else 0)
            changed[key] = Mark(batch.sequence, lost, now)
            fresh.append(batch)
        return fresh, changed

    def keep(self, changed: Mapping[Key, Mark]) -> None:
        """Remember marks that are stored."""
        self._marks.update(changed)
