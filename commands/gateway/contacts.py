"""Contacts: when each host was last heard of, by any engine. No state: it may be lost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Protocol

import psycopg
import psycopg_pool

_CREATE = """
create schema if not exists gateway;
create unlogged table if not exists gateway.contacts (
    host text primary key,
    heard timestamptz not null
) with (fillfactor = 50)
"""
_STORE = """
insert into gateway.contacts as c (host, heard)
select * from unnest(%s::text[], %s::timestamptz[])
on conflict (host) do update set heard = case
    when c.heard > excluded.heard + interval '1 minute' then excluded.heard
    else greatest(c.heard, excluded.heard)
end
"""
_TOO_NEW = dt.timedelta(minutes=1)
_READ = "select host, heard from gateway.contacts"
_LOCK = "select pg_advisory_xact_lock(hashtext('chronovisor gateway contacts'))"


class Contacts(Protocol):
    """Where engines share what they heard."""

    async def store(self, heard: Mapping[str, dt.datetime]) -> None:
        """Store when hosts were heard of; an older time never replaces a newer one.

        Except one that is newer by more than a minute: that clock was wrong, and was set back.
        """
        ...

    async def read(self) -> dict[str, dt.datetime]:
        """Return when each host was last heard of by any engine."""
        ...


class MemoryContacts:
    """Contacts of one engine alone."""

    def __init__(self) -> None:
        self._heard: dict[str, dt.datetime] = {}

    async def store(self, heard: Mapping[str, dt.datetime]) -> None:
        """See `Contacts.store`."""
        for host, time in heard.items():
            known = self._heard.get(host, time)
            self._heard[host] = time if known > time + _TOO_NEW else max(time, known)

    async def read(self) -> dict[str, dt.datetime]:
        """See `Contacts.read`."""
        return dict(self._heard)


class PostgresContacts:
    """Contacts in an unlogged table, shared by all engines on one database."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection]) -> None:
        self._pool = pool

    async def prepare(self) -> None:
        """Make the table; several engines may do so at once."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_LOCK)
            await connection.execute(_CREATE)

    async def store(self, heard: Mapping[str, dt.datetime]) -> None:
        """See `Contacts.store`."""
        async with self._pool.connection() as connection:
            await connection.execute(_STORE, (list(heard), list(heard.values())))

    async def read(self) -> dict[str, dt.datetime]:
        """See `Contacts.read`."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_READ)
            return dict(await cursor.fetchall())
