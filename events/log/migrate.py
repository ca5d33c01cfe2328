"""Bringing a schema's tables up to date, safe where several processes start at once.

Any part that keeps tables in PostgreSQL may use it, each with a schema and a folder of its own. The
migrations are plain SQL files; yoyo keeps the list of those applied, in the same schema.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import yoyo
from psycopg import sql
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import MigrationList

LOG_SCHEMA = "log"
LOG_MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_KEY = 7302
"""The advisory lock under which migrations run; the log's own lock is 7301."""
CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_S = 60


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # yoyo ships no types
    """yoyo's backend over a connection of ours, which holds the lock.

    yoyo's own lock is a row that outlives a killed process, and its migrations run on a second
    connection, so that a kill between a migration and its mark makes the next start fail: here both
    are one transaction, and the lock ends with the connection.
    """

    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        self._given = connection
        place = DatabaseURI("postgresql+psycopg", None, None, None, None, schema, {})
        super().__init__(place, "_yoyo_migration")
        self.schema = schema
        self.init_connection(connection)

    def connect(self, dburi: DatabaseURI) -> psycopg.Connection[Any]:
        return self._given

    @contextlib.contextmanager
    def lock(self, timeout: float = 0) -> Iterator[None]:
        yield

    def apply_one(self, migration: Any, force: bool = False, mark: bool = True) -> None:  # noqa: ANN401, FBT001, FBT002 (yoyo's signature)
        with self.transaction():
            migration.process_steps(self, "apply", force=force)
            self.mark_one(migration, log=False)


def migrate(dsn: str, schema: str = LOG_SCHEMA, folder: Path = LOG_MIGRATIONS) -> int:
    """Apply the migrations of `folder` that `schema` does not have yet; return how many those were.

    Blocks: at most `LOCK_TIMEOUT_S` for another process that migrates. Raises psycopg.Error.
    """
    with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        connection.execute(f"set lock_timeout = '{LOCK_TIMEOUT_S}s'")
        connection.execute("select pg_advisory_lock(%s)", (LOCK_KEY,))
        connection.execute("set client_min_messages = warning")
        connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
        backend = _Backend(connection, schema)
        migrations: MigrationList = backend.to_apply(yoyo.read_migrations(str(folder)))
        for migration in migrations:
            backend.apply_one(migration)
        return len(migrations)
