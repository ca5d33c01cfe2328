"""Events as Kafka records, waits between attempts, frames of telemetry."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.backoff import Backoff
from events.envelope import Stored
from events.stream.kafka_records import (
    ForeignRecordError,
    decode_record,
    encode_headers,
    topic_name,
)
from events.wire.telemetry import decode_telemetry, encode_telemetry, frame, read_frame
from tests.unit.dwh.samples import telemetry

LOG = uuid.UUID("00000000-0000-4000-8000-000000000001")
words = st.none() | st.text(max_size=20)
events = st.builds(
    Stored,
    position=st.integers(1, 2**62),
    stream=st.text(min_size=1, max_size=40),
    version=st.integers(1, 2**31),
    name=st.text(min_size=1, max_size=20),
    schema=st.integers(1, 99),
    payload=st.binary(max_size=200),
    time=st.datetimes(timezones=st.just(dt.UTC)),
    actor=st.text(max_size=20),
    command=st.uuids(),
    correlation=words,
    causation=words,
    addressee=words,
)


@given(events)
def test_a_record_gives_back_the_very_event(stored: Stored) -> None:
    headers = encode_headers(LOG, stored)
    assert decode_record(LOG, stored.stream.encode(), stored.payload, headers) == stored


def test_what_is_no_event_of_this_log_is_foreign() -> None:
    stored = Stored(
        position=1,
        stream="vm/1",
        version=1,
        name="vm.up",
        schema=1,
        payload=b"{}",
        time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        actor="ann",
        command=uuid.uuid4(),
    )
    headers = encode_headers(uuid.uuid4(), stored)
    for key, value, given_headers in (
        (b"vm/1", b"{}", headers),  # another log's
        (b"vm/1", b"{}", []),
        (b"vm/1", b"{}", [("event", b"junk")]),
        (None, b"{}", encode_headers(LOG, stored)),
        (b"vm/1", None, encode_headers(LOG, stored)),
    ):
        with pytest.raises(ForeignRecordError):
            decode_record(LOG, key, value, given_headers)


def test_the_topic_names_the_log() -> None:
    assert topic_name(LOG) == f"chronovisor.events.{LOG}"


def test_waits_double_up_to_a_bound_and_begin_anew() -> None:
    backoff = Backoff(first_s=1.0, max_s=10.0)
    waits = [backoff.next_s() for _ in range(200)]
    for wait, longest in zip(waits, [1.0, 2.0, 4.0, 8.0, *[10.0] * 196], strict=True):
        assert longest / 2 <= wait <= longest
    backoff.reset()
    assert backoff.next_s() <= 1.0


async def test_frames_come_out_as_they_went_in() -> None:
    reader = asyncio.StreamReader()
    batches = [telemetry(1), telemetry(2, vms=50)]
    for batch in batches:
        reader.feed_data(frame(encode_telemetry(batch)))
    reader.feed_eof()
    assert [decode_telemetry(await read_frame(reader)) for _ in batches] == batches
    with pytest.raises(asyncio.IncompleteReadError):
        await read_frame(reader)


async def test_a_frame_that_is_too_large_is_refused_on_both_sides() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        frame(bytes(5 * 1024 * 1024))
    reader = asyncio.StreamReader()
    reader.feed_data(b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="exceeds"):
        await read_frame(reader)
