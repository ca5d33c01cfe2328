"""The reading side of the log in PostgreSQL, for processes that only read."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import psycopg
import structlog

from events.claims import Mode
from events.envelope import Stored
from events.log import connection as connections
from events.log.claims import Holding
from events.log.connection import Connection, close, connect, sever
from events.log.heads import POLL_INTERVAL_S, Heads, Watcher
from events.log.migrate import migrate as run_migrations
from events.log.pool import Pool
from events.log.port import READ_EVENTS_MAX, Newest, Snapshot, StoredAnswer, UnavailableError
from events.log.statements import statement
from events.stream.port import OtherLogError

POOL_CONNECTIONS_MAX = 4
READ_TIMEOUT_S = 5.0
FOLLOWING_CONNECTIONS_MAX = 2
"""How long a read is tried again before the log is said to be away."""
QUERY_TIMEOUT_S = 12.0
BACKOFF_S = 0.02
BACKOFF_MAX_S = 0.5

Logger = structlog.stdlib.get_logger(__name__)
Row = tuple[Any, ...]


class LogGapError(Exception):
    """The log has a hole or changed under a reader, which its invariants forbid: stop and look."""

    def __init__(self, after: int, found: int) -> None:
        super().__init__(f"position {found} was read where {after + 1} must come")
        self.after = after
        self.found = found


class PostgresLogReader:
    """A `LogReader` over a small pool of connections; made by `open`."""

    def __init__(
        self,
        dsn: str,
        *,
        pool_connections_max: int = POOL_CONNECTIONS_MAX,
        poll_interval_s: float = POLL_INTERVAL_S,
    ) -> None:
        self._dsn = dsn
        self._identity: uuid.UUID | None = None
        self._heads = Heads()
        self._watcher = Watcher(self._heads, self._open_watched, poll_interval_s)
        self._pool = Pool(self._open_reading, pool_connections_max)
        # Whoever follows the log must not wait behind a thousand who decide on what it brings.
        self._following = Pool(self._open_reading, FOLLOWING_CONNECTIONS_MAX)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        dsn: str,
        *,
        migrate: bool = False,
        pool_connections_max: int = POOL_CONNECTIONS_MAX,
        poll_interval_s: float = POLL_INTERVAL_S,
    ) -> AsyncIterator[PostgresLogReader]:
        """Open a log for reading, for the length of an `async with` block.

        Raises NoLogError where the database has none, and UnavailableError.
        """
        if migrate:
            await run_migrations_in_thread(dsn)
        reader = cls(
            dsn, pool_connections_max=pool_connections_max, poll_interval_s=poll_interval_s
        )
        try:
            await reader._start()
            yield reader
        finally:
            await reader._stop()

    @property
    def log_id(self) -> uuid.UUID:
        """The log's identity; a restored log has another."""
        if self._identity is None:
            raise UnavailableError("the log is not open")
        return self._identity

    @property
    def head_heard(self) -> int:
        """The highest position heard of so far: that of the head, or a little less."""
        return self._heads.known

    async def head(self) -> int:
        """Return the position of the last event, 0 for an empty log."""
        rows = await self._query("head", {})
        head: int = rows[0][0]
        self._heads.advance(head)
        return head

    async def read(self, after: int, limit: int = READ_EVENTS_MAX) -> Sequence[Stored]:
        """Return events at positions after + 1 .., without a gap, at most `limit` of them.

        Raises LogGapError where they are not those positions.
        """
        rows = await self._query("read", {"after": after, "limit": limit}, self._following)
        if rows and (rows[0][0] != after + 1 or rows[-1][0] != after + len(rows)):
            raise _gap(after, rows)
        return _stored(rows)

    async def load(self, stream: str, after_version: int = 0) -> Sequence[Stored]:
        """Return the events of a stream after a version, in order."""
        return _stored(await self._query("load", {"stream": stream, "after": after_version}))

    async def load_many(self, after_versions: Mapping[str, int]) -> dict[str, Sequence[Stored]]:
        """Return, for each stream named, its events after the version given, as of one instant."""
        streams, after = list(after_versions), list(after_versions.values())
        loaded: dict[str, list[Stored]] = {stream: [] for stream in streams}
        if len(streams) == 1:
            return {streams[0]: await self.load(streams[0], after[0])}
        if not streams:
            return {}
        for event in _stored(await self._query("load_many", {"streams": streams, "after": after})):
            loaded[event.stream].append(event)
        return dict(loaded)

    async def load_newest(
        self, schema_hashes: Mapping[str, str], after_versions: Mapping[str, int]
    ) -> dict[str, Newest]:
        """Return, for each stream named, what its fold needs that has nothing of it, or a version.

        Of the streams in `schema_hashes` that is the newest snapshot of that schema, where there is
        one, and the events behind it; of those in `after_versions` the events after the version.
        All is as of one instant.
        """
        streams = [*schema_hashes, *after_versions]
        hashes = [*schema_hashes.values(), *("" for _ in after_versions)]
        after = [*(0 for _ in schema_hashes), *after_versions.values()]
        arguments = {"streams": streams, "schema_hashes": hashes, "after": after}
        snapshots: dict[str, Snapshot] = {}
        events: dict[str, list[Row]] = {stream: [] for stream in streams}
        for row in await self._query("load_newest", arguments):
            position, stream, version, name, _, payload, *_ = row
            if name:
                events[stream].append(row)
                continue
            snapshots[stream] = Snapshot(
                name=stream,
                schema_hash=schema_hashes[stream],
                position=position,
                version=version,
                state=bytes(payload),
            )
        return {
            stream: Newest(snapshots.get(stream), _stored(rows)) for stream, rows in events.items()
        }

    async def addressed(self, host: str, after: int, limit: int) -> Sequence[Stored]:
        """Return the events addressed to a host after a position, in order."""
        return _stored(
            await self._query("addressed", {"host": host, "after": after, "limit": limit})
        )

    async def position_at(self, time: dt.datetime) -> int:
        """Return the last position whose time is not after `time`; 0 if there is none."""
        rows = await self._query("position_at", {"time": time})
        position: int = rows[0][0]
        return position

    async def wait(self, after: int, timeout_s: float) -> int:
        """Wait until the head is beyond `after`, at most `timeout_s`; return the head known."""
        return await self._heads.beyond(after, timeout_s)

    async def snapshot(self, name: str, schema_hash: str) -> Snapshot | None:
        """Return the newest snapshot of a fold, or None; one of another schema is discarded."""
        rows = await self._query("snapshot", {"name": name, "schema_hash": schema_hash})
        if not rows:
            return None
        position, version, state = rows[0]
        return Snapshot(
            name=name,
            schema_hash=schema_hash,
            position=position,
            version=version,
            state=bytes(state),
        )

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        """Store a snapshot; an older one of the same schema than what is stored is ignored."""
        await self._query(
            "save_snapshot",
            {
                "name": snapshot.name,
                "schema_hash": snapshot.schema_hash,
                "position": snapshot.position,
                "version": snapshot.version,
                "state": snapshot.state,
            },
        )

    async def answer(self, principal: str, key: str) -> StoredAnswer | None:
        """Return the stored answer of a command, or None if it was not accepted."""
        rows = await self._query("answer", {"principal": principal, "key": key})
        if not rows:
            return None
        body_mac, answer, first, count, time = rows[0]
        return StoredAnswer(
            body_mac=bytes(body_mac), answer=bytes(answer), first=first, count=count, time=time
        )

    async def claims(self) -> dict[tuple[str, str], Holding]:
        """Return the table of claims: (key, holder) to holding."""
        rows = await self._query("claims", {})
        return {(key, holder): Holding(Mode(mode), amount) for key, holder, mode, amount in rows}

    async def _start(self) -> None:
        try:
            async with self._pool.connection(QUERY_TIMEOUT_S) as connection:
                self._identity = await connections.log_id(connection)
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise UnavailableError(f"the database cannot be reached: {error}") from error
        self._watcher.start()

    async def _stop(self) -> None:
        await self._watcher.close()
        await self._following.close()
        await self._pool.close()

    async def _open_reading(self) -> Connection:
        """Open a connection of the pool; raises OtherLogError once the database holds another."""
        connection = await connect(self._dsn, "chronovisor log reader")
        if self._identity is not None:
            try:
                found = await connections.log_id(connection)
            except BaseException:
                await close(connection)
                raise
            if found != self._identity:
                await close(connection)
                raise OtherLogError(self._identity, found)
        return connection

    async def _open_watched(self) -> Connection:
        return await connect(self._dsn, "chronovisor log watcher")

    async def _query(
        self, name: str, arguments: Mapping[str, Any], pool: Pool | None = None
    ) -> list[Row]:
        """Run a statement, again on another connection where one was lost, for a bounded time.

        Raises UnavailableError, and OtherLogError once the database holds another log.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READ_TIMEOUT_S
        backoff_s = BACKOFF_S
        while True:
            left_s = max(0.0, deadline - loop.time())
            try:
                async with (pool or self._pool).connection(left_s) as connection:
                    return await _execute(connection, name, arguments)
            except TimeoutError as error:  # which is an OSError, too
                raise UnavailableError("the database does not answer in time") from error
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                if loop.time() + backoff_s > deadline:
                    raise UnavailableError(f"the database does not answer: {error}") from error
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)


async def run_migrations_in_thread(dsn: str) -> None:
    """Bring the log's schema up to date; raises UnavailableError."""
    try:
        await asyncio.to_thread(run_migrations, dsn)
    except psycopg.OperationalError as error:
        raise UnavailableError(f"the database cannot be reached: {error}") from error


async def _execute(connection: Connection, name: str, arguments: Mapping[str, Any]) -> list[Row]:
    limit = asyncio.get_running_loop().call_later(QUERY_TIMEOUT_S, sever, connection)
    try:
        async with connection.cursor(binary=True) as cursor:
            await cursor.execute(statement(name), arguments, prepare=True)
            return await cursor.fetchall() if cursor.description is not None else []
    finally:
        limit.cancel()


def _gap(after: int, rows: Sequence[Row]) -> LogGapError:
    for place, row in enumerate(rows, after + 1):
        if row[0] != place:
            return LogGapError(place - 1, row[0])
    return LogGapError(after, rows[-1][0])


def _stored(rows: Sequence[Row]) -> list[Stored]:
    return [
        Stored(
            position=position,
            stream=stream,
            version=version,
            name=name,
            schema=schema,
            payload=payload,
            time=time,
            actor=actor,
            command=command,
            correlation=correlation,
            causation=causation,
            addressee=addressee,
        )
        for (
            position,
            stream,
            version,
            name,
            schema,
            payload,
            time,
            actor,
            command,
            correlation,
            causation,
            addressee,
        ) in rows
    ]
