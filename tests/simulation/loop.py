"""An event loop whose time is only a number: it never waits, and the same seed runs the same."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any


class StandstillError(Exception):
    """Nothing is left to happen, although something is still waited for."""


class _NoWaiting(selectors.SelectSelector):
    """Lets time pass in place of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Return nothing, the time-out being over."""
        if timeout is None:
            raise StandstillError
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which a timer that is next is due at once."""

    def __init__(self) -> None:
        self._clock = _NoWaiting()
        super().__init__(self._clock)
        self.errors: list[Mapping[str, Any]] = []
        self.set_exception_handler(lambda _loop, context: self.errors.append(context))

    def time(self) -> float:
        """Return the seconds that have passed since the loop was made."""
        return self._clock.now_s
