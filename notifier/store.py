"""The notifier's memory: what is to be told, to whom, and how far each has been told.

SQLite with every commit flushed. All methods block and belong to one thread.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import msgspec

from events.stream.port import Cursor
from notifier.notification import Notification

FILE_NAME = "notifier.sqlite"
BUSY_TIMEOUT_S = 5.0
NEVER = dt.datetime.min.replace(tzinfo=dt.UTC)


class Address(msgspec.Struct, frozen=True, order=True):
    """One queue: a transport and an address behind a recipient's name."""

    transport: str
    address: str

    def __str__(self) -> str:
        return f"{self.transport}:{self.address}"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One notification that an address is still to be told of."""

    id: int
    queued_at: float
    attempts: int
    notification: Notification


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """How far the log is queued; the times are those of events."""

    cursor: Cursor
    last_time: dt.datetime = NEVER
    seen_until: dt.datetime = NEVER


class QueueLength(msgspec.Struct, frozen=True, kw_only=True):
    """How much an address is still to be told of, since when, and what went wrong last."""

    address: Address
    waiting: int
    oldest_at: float
    attempts: int
    last_error: str


class StoreUnavailableError(Exception):
    """The notifier's file cannot be opened, or another notifier has it."""


class Store:
    """The tables of store.sql in `folder/notifier.sqlite`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / FILE_NAME
        try:
            self._connection = self._open(path)
        except sqlite3.Error as error:
            message = f"{path} cannot be opened, or another notifier has it: {error}"
            raise StoreUnavailableError(message) from error

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            # The lock is held until the end, lest a second notifier tell everything a second time.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(resources.files("notifier").joinpath("store.sql").read_text())
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def copy_to(self, path: Path) -> None:
        """Write a whole copy of everything into a new file, for its owner only."""
        path.touch(mode=0o600, exist_ok=False)
        target = sqlite3.connect(path)
        try:
            self._connection.backup(target)
            # One file, without the journal that this one has beside it.
            target.execute("PRAGMA journal_mode = DELETE")
        finally:
            target.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def place(self) -> Place | None:
        """Return how far the log is queued, None before the first start."""
        row = self._connection.execute(
            "SELECT log_id, position, hint, last_time, seen_until FROM place"
        ).fetchone()
        if row is None:
            return None
        log_id, position, hint, last_time, seen_until = row
        return Place(
            cursor=Cursor(None if log_id is None else uuid.UUID(log_id), position, hint),
            last_time=dt.datetime.fromisoformat(last_time),
            seen_until=dt.datetime.fromisoformat(seen_until),
        )

    def set_place(self, place: Place) -> None:
        """Store how far the log is queued, with nothing new in the queues."""
        self.take(place, ())

    def take(self, place: Place, news: Sequence[tuple[Address, Notification]]) -> None:
        """Queue notifications and move the place, both or neither."""
        now = time.time()
        cursor = place.cursor
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO queue (transport, address, position, queued_at, notification)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    (to.transport, to.address, each.position, now, msgspec.json.encode(each))
                    for to, each in news
                ),
            )
            self._connection.execute(
                "INSERT OR REPLACE INTO place VALUES (1, ?, ?, ?, ?, ?)",
                (
                    None if cursor.log_id is None else str(cursor.log_id),
                    cursor.position,
                    cursor.hint,
                    place.last_time.isoformat(),
                    place.seen_until.isoformat(),
                ),
            )

    def next(self, address: Address, count_max: int = 1) -> list[Entry]:
        """Return the oldest notifications that an address is still to be told of."""
        rows = self._connection.execute(
            "SELECT id, queued_at, attempts, notification FROM queue"
            " WHERE transport = ? AND address = ? ORDER BY id LIMIT ?",
            (address.transport, address.address, count_max),
        ).fetchall()
        return [
            Entry(
                id=number,
                queued_at=queued_at,
                attempts=attempts,
                notification=msgspec.json.decode(content, type=Notification),
            )
            for number, queued_at, attempts, content in rows
        ]

    def told(self, address: Address, entries: Sequence[Entry]) -> None:
        """Strike off what an address was told of, and move its cursor."""
        last = entries[-1].notification
        with self._transaction():
            self._connection.executemany(
                "DELETE FROM queue WHERE id = ?", [(entry.id,) for entry in entries]
            )
            self._connection.execute(
                "INSERT INTO told VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (transport, address)"
                " DO UPDATE SET log_id = excluded.log_id, position = excluded.position,"
                " count = count + excluded.count, at = excluded.at",
                (
                    address.transport,
                    address.address,
                    str(last.log_id),
                    last.position,
                    len(entries),
                    time.time(),
                ),
            )

    def failed(self, entry: Entry, error: str) -> None:
        """Note that an attempt failed; the notification stays the next one."""
        with self._transaction():
            self._connection.execute(
                "UPDATE queue SET attempts = attempts + 1, last_error = ? WHERE id = ?",
                (error, entry.id),
            )

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Take a notification that is refused for good out of its queue, and keep it apart."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO set_aside SELECT id, transport, address, position, ?, ?, notification"
                " FROM queue WHERE id = ?",
                (time.time(), reason, entry.id),
            )
            self._connection.execute("DELETE FROM queue WHERE id = ?", (entry.id,))

    def set_aside_count(self) -> int:
        """Return how many notifications were refused for good."""
        row: tuple[int] = self._connection.execute("SELECT count(*) FROM set_aside").fetchone()
        return row[0]

    def queues(self) -> list[QueueLength]:
        """Return what waits, for each address that something waits for."""
        rows = self._connection.execute(
            "SELECT transport, address, count(*), min(queued_at), max(attempts), max(last_error)"
            " FROM queue GROUP BY transport, address"
        ).fetchall()
        return [
            QueueLength(
                address=Address(transport, address),
                waiting=waiting,
                oldest_at=oldest,
                attempts=attempts,
                last_error=error,
            )
            for transport, address, waiting, oldest, attempts, error in rows
        ]

    def told_count(self) -> int:
        """Return how many notifications were told since the first start."""
        row: tuple[int] = self._connection.execute(
            "SELECT coalesce(sum(count), 0) FROM told"
        ).fetchone()
        return row[0]
