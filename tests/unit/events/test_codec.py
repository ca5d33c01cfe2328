"""Payloads of old schemas are lifted; what this release does not know stops its reader."""

from __future__ import annotations

import pytest

from events.codec import CODEC, UnknownEventError
from events.envelope import NewEvent
from events.log.memory import MemoryLog
from tests.contract.sample_events import SAMPLE_CODEC, Noted, Sized, command


def test_an_event_of_schema_1_is_read_as_schema_2() -> None:
    event = SAMPLE_CODEC.decode_payload("sample.sized", 1, b'{"size_mib": 3}')
    assert event == Sized(size_bytes=3 * 1024 * 1024)


def test_an_event_of_the_present_schema_is_not_lifted() -> None:
    event = SAMPLE_CODEC.decode_payload("sample.sized", 2, b'{"size_bytes": 3}')
    assert event == Sized(size_bytes=3)


async def test_new_events_carry_the_present_schema() -> None:
    log = MemoryLog(codec=SAMPLE_CODEC)
    await log.append(command({}, NewEvent("disk/1", Sized(size_bytes=3))))
    (stored,) = await log.read(0)
    assert (stored.name, stored.schema) == ("sample.sized", 2)
    assert SAMPLE_CODEC.decode(stored).event == Sized(size_bytes=3)


@pytest.mark.parametrize(("name", "schema"), [("sample.gone", 1), ("sample.sized", 3)])
def test_an_unknown_name_or_a_later_schema_stops_the_reader(name: str, schema: int) -> None:
    with pytest.raises(UnknownEventError) as caught:
        SAMPLE_CODEC.decode_payload(name, schema, b"{}")
    assert (caught.value.name, caught.value.schema) == (name, schema)


def test_a_missing_upcaster_stops_the_reader() -> None:
    with pytest.raises(UnknownEventError):
        SAMPLE_CODEC.decode_payload("sample.noted", 0, b"{}")


def test_samples_are_no_part_of_the_products_codec() -> None:
    with pytest.raises(UnknownEventError):
        CODEC.decode_payload("sample.noted", 1, b"{}")
    assert SAMPLE_CODEC.decode_payload("sample.noted", 1, b'{"text":"a"}') == Noted(text="a")
