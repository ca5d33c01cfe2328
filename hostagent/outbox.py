"""What waits to be told to the engine, bounded by what there is to tell.

Of each VM's incarnation, each job and the full state only the newest item waits: an item is a whole
fact, so the newest holds all that matters. The truth itself lies in the journal and the hypervisor;
a new session begins with an empty outbox and a full state made from them.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import Sequence

from events.wire.agent import (
    REPORT_ITEMS_MAX,
    SAMPLES_MAX,
    CapabilitiesItem,
    FenceItem,
    FullStateItem,
    HostSample,
    Item,
    JobItem,
    Report,
    Telemetry,
    VmSample,
    VmStateItem,
)

BUFFERED_SAMPLES_MAX = 20_000


class Outbox:
    """Items in order of their last change; at most one report is on its way."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._waiting: dict[tuple[str, ...], tuple[Item, int]] = {}
        self._in_flight: Report | None = None
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: Item, position: int) -> None:
        """Let `item` wait at the end, instead of an older one of the same thing.

        `position` is that of the intent that the item was made under.
        """
        key = _key(item)
        self._waiting.pop(key, None)
        self._waiting[key] = (item, position)
        self.changed.set()

    def reset(self) -> None:
        """Begin a new session: its numbers start anew, and everything is told anew."""
        self._waiting.clear()
        self._in_flight = None
        self._sequence = 0
        self.changed.clear()

    def report(self, session: str, applied_position: int, time: dt.datetime) -> Report | None:
        """Return the report to send: the unacknowledged one again, else the next; None if empty."""
        if self._in_flight is None and self._waiting:
            self._in_flight = self._next(session, applied_position, time)
        return self._in_flight

    def acknowledged(self) -> tuple[Item, ...]:
        """Take the report on its way as delivered; return its items."""
        report, self._in_flight = self._in_flight, None
        if not self._waiting:
            self.changed.clear()
        return () if report is None else report.items

    def _next(self, session: str, applied_position: int, time: dt.datetime) -> Report:
        items: list[Item] = []
        for key, (item, position) in list(self._waiting.items())[:REPORT_ITEMS_MAX]:
            del self._waiting[key]
            items.append(item)
            # That something is not here proves nothing about orders that came after it was said.
            applied_position = min(applied_position, position)
            if isinstance(item, FullStateItem):
                break
        self._sequence += 1
        return Report(
            session=session,
            sequence=self._sequence,
            applied_position=applied_position,
            time=time,
            items=tuple(items),
        )


def _key(item: Item) -> tuple[str, ...]:
    match item:
        case VmStateItem():
            return ("vm", item.vm, str(item.incarnation))
        case JobItem():
            return ("job", item.job)
        case FullStateItem():
            return ("full",)
        case CapabilitiesItem():
            return ("capabilities",)
        case FenceItem():
            return ("fence", item.order)


class TelemetryBuffer:
    """Samples that wait for the engine; the oldest are dropped, and counted, when it is full."""

    def __init__(self, samples_max: int = BUFFERED_SAMPLES_MAX) -> None:
        self.dropped_total = 0
        self._samples_max = samples_max
        self._samples: deque[HostSample | VmSample] = deque()
        self._dropped = 0
        self._in_flight: Telemetry | None = None
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, host: HostSample, vms: Sequence[VmSample]) -> None:
        """Take up one sampling."""
        self._samples.append(host)
        self._samples.extend(vms)
        while len(self._samples) > self._samples_max:
            self._samples.popleft()
            self._dropped += 1
            self.dropped_total += 1

    def batch(self, host: str, boot: str, now: dt.datetime) -> Telemetry | None:
        """Return the batch to send: the unacknowledged one again, else the next; None if empty."""
        if self._in_flight is None and self._samples:
            count = min(len(self._samples), SAMPLES_MAX)
            taken = [self._samples.popleft() for _ in range(count)]
            # Milliseconds of the clock, so that an agent's restart does not reuse a number.
            self._sequence = max(self._sequence + 1, int(now.timestamp() * 1_000))
            self._in_flight = Telemetry(
                host=host,
                boot=boot,
                sequence=self._sequence,
                dropped=self._dropped,
                hosts=tuple(sample for sample in taken if isinstance(sample, HostSample)),
                vms=tuple(sample for sample in taken if isinstance(sample, VmSample)),
            )
            self._dropped = 0
        return self._in_flight

    def acknowledged(self) -> None:
        """Take the batch on its way as delivered (or as lost for good)."""
        self._in_flight = None
