"""What a channel is: something that takes a notification to an address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from notifier.notification import Notification


class DeliveryError(Exception):
    """It did not work now and is tried again: the receiver is down, or says so."""


class RefusedError(DeliveryError):
    """The receiver will have none of this one notification; tried again, but not for ever."""


class Channel(Protocol):
    """A transport. `deliver` may be called for several addresses at once, in order for each."""

    @property
    def transport(self) -> str:
        """The transport's name in filters."""
        ...

    def addresses(self, name: str) -> tuple[str, ...]:
        """Return the addresses behind a recipient's name; raises ValueError where it is wrong."""
        ...

    @property
    def at_once_max(self) -> int:
        """How many notifications it takes at once."""
        ...

    async def deliver(self, address: str, notifications: Sequence[Notification]) -> None:
        """Hand notifications over, `at_once_max` at most, in their order.

        Returns once the receiver has them all. Raises DeliveryError where it may not have all.
        """
        ...

    async def close(self) -> None:
        """Let go of sockets and files."""
        ...
