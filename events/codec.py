"""Payloads to bytes and back: msgspec JSON, old schema numbers lifted by upcasters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from events.envelope import Recorded, Stored
from events.types import catalogue
from events.types.base import Event, EventType, type_of

PAYLOAD_BYTES_MAX = 256 * 1024
"""The largest payload that the log takes (contract A)."""

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


class UnknownEventError(Exception):
    """An event name or schema number that this release does not know: its reader must stop."""

    def __init__(self, name: str, schema: int) -> None:
        super().__init__(
            f"event {name!r} schema {schema} is unknown to this release; "
            "upgrade this reader before the writers"
        )
        self.name = name
        self.schema = schema


class Codec:
    """Encodes and decodes events of a set of types.

    `upcasters[(name, schema)]` turns the plain fields of that schema into those of the next one.
    """

    def __init__(
        self, types: dict[str, EventType], upcasters: dict[tuple[str, int], Upcaster]
    ) -> None:
        self._types = types
        self._upcasters = upcasters
        self._decoders = {
            name: msgspec.json.Decoder(registered.cls) for name, registered in types.items()
        }
        self._encoder = msgspec.json.Encoder()

    def encode(self, event: Event) -> tuple[str, int, bytes]:
        """Return the name, schema number and payload of an event.

        Raises ValueError where the payload is larger than `PAYLOAD_BYTES_MAX`.
        """
        registered = type_of(type(event))
        payload = self._encoder.encode(event)
        if len(payload) > PAYLOAD_BYTES_MAX:
            message = f"{registered.name} of {len(payload)} B exceeds {PAYLOAD_BYTES_MAX} B"
            raise ValueError(message)
        return registered.name, registered.schema, payload

    def decode_payload(self, name: str, schema: int, payload: bytes) -> Event:
        """Return the event of a payload; raises UnknownEventError."""
        registered = self._types.get(name)
        if registered is None or schema > registered.schema:
            raise UnknownEventError(name, schema)
        if schema == registered.schema:
            return self._decoders[name].decode(payload)
        fields: dict[str, Any] = msgspec.json.decode(payload)
        for number in range(schema, registered.schema):
            upcaster = self._upcasters.get((name, number))
            if upcaster is None:
                raise UnknownEventError(name, schema)
            fields = upcaster(fields)
        return msgspec.convert(fields, registered.cls)

    def decode(self, stored: Stored) -> Recorded:
        """Return a stored event with its payload decoded; raises UnknownEventError."""
        return Recorded(
            position=stored.position,
            stream=stored.stream,
            version=stored.version,
            name=stored.name,
            event=self.decode_payload(stored.name, stored.schema, stored.payload),
            time=stored.time,
            actor=stored.actor,
            command=stored.command,
            correlation=stored.correlation,
            causation=stored.causation,
            addressee=stored.addressee,
        )


CODEC = Codec(catalogue.TYPES, catalogue.UPCASTERS)
"""The product's codec, over every event type there is."""
