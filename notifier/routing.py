"""From filters and channels to addresses: who is told of a notification, checked at the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from events.types import catalogue
from notifier.channel import Channel
from notifier.filters import Filter, FilterError, Recipient
from notifier.local_file import TRANSPORT as FILE
from notifier.notification import Notification
from notifier.store import Address

FILE_RECIPIENT = Recipient(FILE, "")
logger = structlog.get_logger(__name__)


def known_events() -> frozenset[str]:
    """Return the names of all audit records of this release."""
    return frozenset(audit.name for each in catalogue.TYPES.values() for audit in each.cls.audits)


class Routes:
    """Answers which addresses a notification goes to.

    With the file channel alone every notification goes there, whatever the filter says. Raises
    FilterError where a pattern names a recipient that no channel can reach.
    """

    def __init__(self, text: str, rules: Filter, channels: Sequence[Channel]) -> None:
        self._rules = rules
        self.channels: Mapping[str, Channel] = {each.transport: each for each in channels}
        self._to_file = tuple(self.channels) == (FILE,)
        self._addresses: dict[Recipient, tuple[Address, ...]] = {}
        for pattern in rules.patterns:
            if pattern.recipient is not None and not self._to_file:
                self._addresses[pattern.recipient] = self._resolve(
                    text, pattern.recipient, pattern.offset
                )
        if self._to_file:
            self._addresses = {FILE_RECIPIENT: (Address(FILE, ""),)}
        for name in rules.unknown_events(known_events()):
            logger.warning("a filter names an event that this release never has", event_name=name)

    def _resolve(self, text: str, recipient: Recipient, offset: int) -> tuple[Address, ...]:
        channel = self.channels.get(recipient.transport)
        if channel is None:
            known = ", ".join(sorted(self.channels)) or "none"
            reason = f"transport {recipient.transport!r} is not configured (there is: {known})"
            raise FilterError(text, offset, reason)
        try:
            names = channel.addresses(recipient.name)
        except ValueError as error:
            raise FilterError(text, offset, str(error)) from error
        return tuple(Address(recipient.transport, name) for name in names)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Every address that can be told anything."""
        return tuple(sorted({each for found in self._addresses.values() for each in found}))

    def to(self, notification: Notification) -> tuple[Address, ...]:
        """Return the addresses to tell of a notification."""
        if self._to_file:
            return self._addresses[FILE_RECIPIENT]
        told = self._rules.told(notification.name, notification.severity)
        return tuple(dict.fromkeys(each for who in told for each in self._addresses[who]))
