"""Copies of the warehouse and of the notifier's memory are whole while both are in use."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import sqlite3
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import duckdb
import msgspec
import pytest

from dwh import copies
from dwh.warehouse import Warehouse
from events.stream.port import Cursor
from events.wire.agent import HostSample, Telemetry
from events.wire.copies import DATA, HEAD, CopyServer, NoCopyError, fetch
from events.wire.telemetry import TelemetryBatch
from notifier.store import NEVER, Place, Store

TIME = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def samples(first: int, count: int) -> TelemetryBatch:
    """Return telemetry of one host: so many batches of one sample."""
    return TelemetryBatch(
        telemetry=[
            Telemetry(
                host="h1",
                boot="b1",
                sequence=number,
                hosts=(
                    HostSample(
                        time=TIME + dt.timedelta(seconds=number),
                        cpu_percent=1.0,
                        load=0.5,
                        memory_total_bytes=1024,
                        memory_used_bytes=512,
                        storage_free_bytes=2048,
                        vms_running=number,
                    ),
                ),
            )
            for number in range(first, first + count)
        ]
    )


def test_a_warehouse_is_copied_as_of_one_instant_while_it_is_written(tmp_path: Path) -> None:
    used = Warehouse(tmp_path / "used")
    try:
        used.take_telemetry(samples(1, 50))
        frames = copies.copy_frames(used.connection.cursor())
        taken = [next(frames)]
        used.take_telemetry(samples(51, 50))  # comes after the copy's instant
        taken += list(frames)
    finally:
        used.close()

    tables: dict[str, tuple[copies.Table, bytes]] = {}
    name = ""
    for frame in taken:
        if frame[:1] == HEAD and b'"table"' in frame:
            table = msgspec.json.decode(frame[1:], type=copies.Table)
            name = table.name
            tables[name] = (table, b"")
        elif frame[:1] == DATA:
            tables[name] = (tables[name][0], tables[name][1] + frame[1:])
    assert tables["host_samples"][0].rows == 50

    with copies.make(tmp_path / "new") as connection:
        for table, content in tables.values():
            copies.fill(connection, table, io.BytesIO(content))
        rows = connection.execute("SELECT count(*), max(vms_running) FROM host_samples").fetchall()
    assert rows == [(50, 50)]
    again = Warehouse(tmp_path / "new")  # as the process opens it
    try:
        again.take_telemetry(samples(49, 3))  # what is there already is known
        found = again.connection.cursor().execute("SELECT count(*) FROM host_samples").fetchall()
    finally:
        again.close()
    assert found == [(51,)]


def test_a_table_that_is_no_table_is_refused(tmp_path: Path) -> None:
    odd = copies.Table(name="t", sql="COPY (SELECT 1) TO 'outside'", rows=0)
    with (
        copies.make(tmp_path / "new") as connection,
        pytest.raises((copies.TablesChangedError, duckdb.Error)),
    ):
        copies.fill(connection, odd, io.BytesIO(b""))
    assert not (tmp_path / "outside").exists()


def test_the_notifiers_memory_is_copied_while_it_is_open(tmp_path: Path) -> None:
    store = Store(tmp_path / "used")
    try:
        store.set_place(Place(cursor=Cursor(uuid.UUID(int=3), 41), last_time=NEVER))
        store.copy_to(tmp_path / "copy.sqlite")
        store.set_place(Place(cursor=Cursor(uuid.UUID(int=3), 42), last_time=NEVER))
    finally:
        store.close()

    assert (tmp_path / "copy.sqlite").stat().st_mode & 0o077 == 0
    connection = sqlite3.connect(tmp_path / "copy.sqlite")
    try:
        assert connection.execute("SELECT position FROM place").fetchall() == [(41,)]
    finally:
        connection.close()


async def served(path: Path, *frames: bytes, fails: bool = False) -> list[tuple[bytes, bytes]]:
    """Serve frames on a socket and fetch them."""

    async def produce() -> AsyncIterator[bytes]:
        for frame in frames:
            yield frame
        if fails:
            raise ValueError("the disk is gone")

    server = asyncio.create_task(CopyServer(path, produce).run())
    try:
        for _ in range(100):
            if path.exists():
                break
            await asyncio.sleep(0.01)
        return await asyncio.to_thread(lambda: list(fetch(path)))
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


async def test_a_copy_comes_over_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "copy.sock"
    found = await served(path, HEAD + b"{}", DATA + b"some", DATA + b"more")
    assert found == [(HEAD, b"{}"), (DATA, b"some"), (DATA, b"more")]


async def test_a_copy_that_fails_half_way_is_no_copy(tmp_path: Path) -> None:
    with pytest.raises(NoCopyError, match="the disk is gone"):
        await served(tmp_path / "copy.sock", HEAD + b"{}", fails=True)


def test_where_nobody_serves_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(fetch(tmp_path / "copy.sock"))
