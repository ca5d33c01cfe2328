"""What a channel is: something that takes a notification to an address."""

from __future__ import annotations

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

    async def deliver(self, address: str, notification: Notification) -> None:
        """Hand a notification over; returns once the receiver has it. Raises DeliveryError."""
        ...

    async def close(self) -> None:
        """Let go of sockets and files."""
        ...
