"""Event types of the tests' own, so that the log's contract does not hang on the product's."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from events.claims import Claim, amount, check, exclusive, release, shared
from events.codec import Codec
from events.envelope import NewEvent
from events.log.port import Append
from events.types import catalogue  # imported first: its registry must not hold the samples
from events.types.base import Event, event, registered_types

START = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)


@event("sample.noted")
class Noted(Event, frozen=True, kw_only=True):
    text: str = ""
    take: tuple[Claim, ...] = ()

    def claims(self, stream: str) -> tuple[Claim, ...]:
        return self.take


@event("sample.sized", schema=2)
class Sized(Event, frozen=True, kw_only=True):
    """Schema 1 had `size_mib`."""

    size_bytes: int


def lift_sized(fields: dict[str, Any]) -> dict[str, Any]:
    return {"size_bytes": fields["size_mib"] * 1024 * 1024}


SAMPLE_CODEC = Codec(
    catalogue.TYPES | {name: registered_types()[name] for name in ("sample.noted", "sample.sized")},
    catalogue.UPCASTERS | {("sample.sized", 1): lift_sized},
)


def noted(stream: str, *claims: Claim, text: str = "", to: str | None = None) -> NewEvent:
    return NewEvent(stream, Noted(text=text, take=claims), to)


def command(
    reads: dict[str, int],
    *events: NewEvent,
    key: str | None = None,
    mac: bytes = b"mac",
    answer: bytes = b"{}",
    principal: str = "ann",
    time: dt.datetime = START,
) -> Append:
    """One command's append; streams that it writes and does not name in `reads` are new."""
    absent = {new.stream: 0 for new in events if new.stream not in reads}
    return Append(
        command=uuid.uuid4(),
        principal=principal,
        actor=principal,
        key=key,
        body_mac=mac,
        reads=reads | absent,
        events=events,
        answer=answer,
        correlation="operation/1",
        causation="vm/1@1",
        time=time,
    )


__all__ = [
    "SAMPLE_CODEC",
    "START",
    "Noted",
    "Sized",
    "amount",
    "check",
    "command",
    "exclusive",
    "noted",
    "release",
    "shared",
]
