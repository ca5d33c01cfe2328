"""How an event lies in Kafka: the topic's name, and a record's key, value and headers.

The value is the stored payload, byte for byte, and the key is the stream, so that other readers of
the topic need nothing of ours. The rest of the envelope is one header, a JSON array.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence

import msgspec

from events.envelope import Stored

ENVELOPE_HEADER = "event"
Headers = Sequence[tuple[str, bytes]]


class ForeignRecordError(Exception):
    """A record in the topic is not an event of this log."""


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    """Everything of a stored event but its stream and payload, and the log that it is from."""

    log_id: uuid.UUID
    position: int
    version: int
    name: str
    schema: int
    time: dt.datetime
    actor: str
    command: uuid.UUID
    correlation: str | None
    causation: str | None
    addressee: str | None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Envelope)


def topic_name(log_id: uuid.UUID) -> str:
    """Return the topic of a log's events: a restored log, having another id, has another topic."""
    return f"chronovisor.events.{log_id}"


def encode_headers(log_id: uuid.UUID, stored: Stored) -> list[tuple[str, bytes]]:
    """Return the headers of an event's record."""
    envelope = _Envelope(
        log_id,
        stored.position,
        stored.version,
        stored.name,
        stored.schema,
        stored.time,
        stored.actor,
        stored.command,
        stored.correlation,
        stored.causation,
        stored.addressee,
    )
    return [(ENVELOPE_HEADER, _encoder.encode(envelope))]


def decode_record(
    log_id: uuid.UUID, key: bytes | None, value: bytes | None, headers: Headers
) -> Stored:
    """Return the event of a record; raises ForeignRecordError where it is none of this log."""
    raw = dict(headers).get(ENVELOPE_HEADER)
    if raw is None or key is None or value is None:
        raise ForeignRecordError("a record without an event's envelope, key or value")
    try:
        envelope = _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise ForeignRecordError(f"an event's envelope cannot be read: {error}") from error
    if envelope.log_id != log_id:
        raise ForeignRecordError(f"an event of log {envelope.log_id}, not of {log_id}")
    return Stored(
        position=envelope.position,
        stream=key.decode(),
        version=envelope.version,
        name=envelope.name,
        schema=envelope.schema,
        payload=value,
        time=envelope.time,
        actor=envelope.actor,
        command=envelope.command,
        correlation=envelope.correlation,
        causation=envelope.causation,
        addressee=envelope.addressee,
    )
