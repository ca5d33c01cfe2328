"""The vault: secrets that admins give, sealed in a table of their own.

A secret is put into the vault before anything is decided about it. What decides, and every event,
state, answer and log, sees its reference alone, `vault/<uuid>`. Whoever carries an order out gets
the secret put in on the way, at the last moment. What is deleted is forgotten; so is, after a while
(`sweep`), what no object refers to: a command that was refused leaves nothing.
"""

import datetime as dt
import re
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import psycopg
import psycopg_pool

from access.secrets import EngineSecret, UnusableKey
from events.log.port import UnavailableError

PREFIX = "vault/"
SECRET_CHARACTERS_MAX = 1024
SCHEMA = "vault"
MIGRATIONS = Path(__file__).parent / "migrations"
"""What makes the table; see `events.log.migrate`."""

Pool = psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection]

_REFERENCE = re.compile(rb'"vault/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"')
_PUT = "insert into vault.secrets (id, sealed) values (%s, %s)"
_GET = "select sealed from vault.secrets where id = %s"
_DELETE = "delete from vault.secrets where id = any(%s)"
_SWEEP = """
delete from vault.secrets
where made < clock_timestamp() - make_interval(secs => %s) and id <> all(%s)
"""


class SecretForgotten(LookupError):
    """The vault has no such secret (any more), or cannot open it with this engine's key."""


class Vault(Protocol):
    """Where secrets lie. All raise UnavailableError while the database is away."""

    async def put(self, secret: str) -> str:
        """Seal a secret of at most `SECRET_CHARACTERS_MAX` characters; return its reference."""
        ...

    async def get(self, reference: str) -> str:
        """Return a secret; raises SecretForgotten."""
        ...

    async def delete(self, *references: str) -> None:
        """Forget secrets; those that are not there do no harm."""
        ...

    async def sweep(self, kept: Collection[str], older_than_s: float) -> int:
        """Forget what is older than so many seconds and not among `kept`; return how many."""
        ...


def references_in(document: bytes) -> set[str]:
    """Return the references that a JSON document holds, wherever they stand."""
    return {PREFIX + found.decode() for found in _REFERENCE.findall(document)}


class MemoryVault:
    """A vault of one process, for tests."""

    def __init__(self) -> None:
        self.secrets: dict[str, tuple[dt.datetime, str]] = {}

    async def put(self, secret: str) -> str:
        """See `Vault.put`."""
        reference = f"{PREFIX}{uuid.uuid4()}"
        self.secrets[reference] = (dt.datetime.now(dt.UTC), _checked(secret))
        return reference

    async def get(self, reference: str) -> str:
        """See `Vault.get`."""
        if reference not in self.secrets:
            raise _forgotten(reference)
        return self.secrets[reference][1]

    async def delete(self, *references: str) -> None:
        """See `Vault.delete`."""
        for reference in references:
            self.secrets.pop(reference, None)

    async def sweep(self, kept: Collection[str], older_than_s: float) -> int:
        """See `Vault.sweep`."""
        before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=older_than_s)
        gone = [
            reference
            for reference, (made, _secret) in self.secrets.items()
            if made < before and reference not in kept
        ]
        await self.delete(*gone)
        return len(gone)


class PostgresVault:
    """The vault of an installation, shared by all its engines; its schema is migrated before."""

    def __init__(self, pool: Pool, key: EngineSecret) -> None:
        self._pool = pool
        self._key = key

    async def put(self, secret: str) -> str:
        """See `Vault.put`."""
        reference = f"{PREFIX}{uuid.uuid4()}"
        sealed = self._key.seal(reference, _checked(secret).encode())
        await self._execute(_PUT, (_id(reference), sealed))
        return reference

    async def get(self, reference: str) -> str:
        """See `Vault.get`."""
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(_GET, (_id(reference),))
                row = await cursor.fetchone()
        except (psycopg.Error, psycopg_pool.PoolTimeout, OSError) as error:
            raise _unavailable(error) from error
        if row is None:
            raise _forgotten(reference)
        try:
            return self._key.open(reference, bytes(row[0])).decode()
        except UnusableKey as error:
            raise _forgotten(reference) from error

    async def delete(self, *references: str) -> None:
        """See `Vault.delete`."""
        if references:
            await self._execute(_DELETE, ([_id(reference) for reference in references],))

    async def sweep(self, kept: Collection[str], older_than_s: float) -> int:
        """See `Vault.sweep`."""
        return await self._execute(_SWEEP, (older_than_s, [_id(each) for each in kept]))

    async def _execute(self, statement: str, values: tuple[object, ...]) -> int:
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(statement.encode(), values)
                return cursor.rowcount
        except (psycopg.Error, psycopg_pool.PoolTimeout, OSError) as error:
            raise _unavailable(error) from error


def _id(reference: str) -> uuid.UUID:
    try:
        return uuid.UUID(reference.removeprefix(PREFIX))
    except ValueError:
        raise _forgotten(reference) from None


def _checked(secret: str) -> str:
    if not 0 < len(secret) <= SECRET_CHARACTERS_MAX:
        message = f"a secret has 1 to {SECRET_CHARACTERS_MAX} characters"
        raise ValueError(message)
    return secret


def _forgotten(reference: str) -> SecretForgotten:
    return SecretForgotten(f"the vault cannot give {reference[:60]}")


def _unavailable(error: Exception) -> UnavailableError:
    return UnavailableError(f"the vault cannot be reached: {type(error).__name__}")
