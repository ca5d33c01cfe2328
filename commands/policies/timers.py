"""The timers of all open operations, the next one first."""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import Mapping

from commands.state.operation import OperationState

Timer = tuple[dt.datetime, str, str]
"""When it is due, of which operation, under which name."""


class Timers:
    """A heap of them over the open operations, which say whether one is still set."""

    def __init__(self, operations: Mapping[str, OperationState]) -> None:
        self._operations = operations
        self._heap: list[Timer] = []

    def set(self, due: dt.datetime, operation: str, name: str) -> None:
        """Note that a timer was set."""
        heapq.heappush(self._heap, (due, operation, name))

    def due(self, now: dt.datetime) -> list[Timer]:
        """Return the timers whose time has come."""
        found: list[Timer] = []
        while (first := self._first()) is not None and first[0] <= now:
            found.append(heapq.heappop(self._heap))
        for timer in found:  # they stay until the log says that they have fired
            heapq.heappush(self._heap, timer)
        return found

    def next_due(self) -> dt.datetime | None:
        """Return when the next timer is due, None if none is set."""
        first = self._first()
        return first[0] if first is not None else None

    def _first(self) -> Timer | None:
        """Return the earliest timer that is still set."""
        while self._heap:
            due, operation_id, name = self._heap[0]
            operation = self._operations.get(operation_id)
            if operation is not None and operation.timers.get(name) == due:
                return self._heap[0]
            heapq.heappop(self._heap)
        return None
