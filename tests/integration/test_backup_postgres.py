"""Backups of a log that is being written, and their return into another database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psycopg
import psycopg_pool
import pytest

from access.secrets import EngineSecret
from access.vault import MIGRATIONS, SCHEMA, PostgresVault, SecretForgotten
from chronovisor import backup_restore_log
from chronovisor.backup import make_backup
from chronovisor.backup_file import BackupReader
from chronovisor.backup_format import BackupError, Manifest, Scope
from chronovisor.backup_restore import Restored, restore_backup
from chronovisor.backup_verify import Verified, verify
from chronovisor.contexts import context
from chronovisor.installation import Installation
from commands.cluster.create import CreateCluster
from commands.data_center.create import CreateDataCenter
from commands.host.add import AddHost
from commands.host.remove import RemoveHost
from commands.kernel.command import Command
from commands.kernel.handler import Handler
from events.codec import CODEC
from events.envelope import Recorded, Stored
from events.log.migrate import migrate
from events.log.postgres import PostgresLog
from events.log.reader import PostgresLogReader
from events.stream.direct import DirectStream
from events.stream.kafka import KafkaStream
from events.stream.kafka_records import topic_name
from events.stream.port import START, Cursor, OtherLogError
from events.stream.relay import Relay
from tests.contract.claim_fold import folded_claims
from tests.contract.stream_contract import events_of, take
from tests.harness.kafka import KafkaBroker
from tests.harness.postgres import Database, PostgresServer
from tests.integration.kafka_clients import let_go_of_clients
from tests.integration.test_stream_kafka import SCALE, relaying

pytestmark = pytest.mark.integration
LOG = (Scope.LOG,)
_let_go = pytest.fixture(scope="module", autouse=True)(let_go_of_clients)


def installed(root: Path, database: Database) -> Installation:
    """Return an installation on a database."""
    root.mkdir()
    (root / "dsn").write_text(database.url)
    (root / "chronovisor.toml").write_text(f'[database]\ndsn_file = "{root}/dsn"\n')
    return Installation.open(root)


async def do(log: PostgresLog, command: Command) -> str:
    """Run a command; return the object's id."""
    accepted = await Handler(log).handle(
        command.decide, lambda: context("admin"), principal="admin"
    )
    return str(msgspec.json.decode(accepted.answer)["id"])


async def back_up(installation: Installation, path: Path) -> Manifest:
    """Make a backup of the log."""
    return await asyncio.to_thread(make_backup, installation, path, scopes=LOG)


async def bring_back(path: Path, root: Path) -> Restored:
    """Restore the log."""
    return await asyncio.to_thread(restore_backup, path, root, scopes=LOG)


def verified(path: Path) -> Verified:
    """Verify a backup."""
    with BackupReader(path) as reader:
        return verify(reader, sealer=None, progress=lambda _part, _done: None)


@pytest.fixture
async def second(postgres: PostgresServer) -> AsyncIterator[Database]:
    """Another empty database."""
    database = await asyncio.to_thread(postgres.create_database, "restored")
    yield database
    await asyncio.to_thread(postgres.drop_database, database)


async def history(url: str) -> list[Recorded]:
    """Return a log's events."""
    async with PostgresLogReader.open(url) as reader:
        return [CODEC.decode(one) for one in await reader.read(0)]


async def stored(url: str) -> list[Stored]:
    """Return a log's events as they are stored."""
    async with PostgresLogReader.open(url) as reader:
        return list(await reader.read(0))


async def test_a_log_that_is_being_written_is_whole_in_every_backup(
    database: Database, tmp_path: Path
) -> None:
    async with PostgresLog.open(database.url) as log:
        installation = installed(tmp_path / "var", database)
        data_center = await do(log, CreateDataCenter(name="North"))

        async def write() -> None:
            for number in range(10_000):
                await do(log, CreateCluster(name=f"c{number}", data_center=data_center))

        writing = asyncio.create_task(write())
        positions = []
        try:
            for number in range(4):
                path = tmp_path / f"backup{number}"
                manifest = await back_up(installation, path)
                assert manifest.log is not None
                positions.append(manifest.log.position)
                found = await asyncio.to_thread(verified, path)
                assert found.events == manifest.log.position
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
        assert positions == sorted(set(positions))  # it went on meanwhile


async def test_a_log_comes_back_as_another_with_the_same_events(
    database: Database, second: Database, tmp_path: Path
) -> None:
    async with PostgresLog.open(database.url) as log:
        data_center = await do(log, CreateDataCenter(name="North"))
        cluster = await do(log, CreateCluster(name="c1", data_center=data_center))
        kept = await do(log, AddHost(name="kept", cluster=cluster))
        gone = await do(log, AddHost(name="gone", cluster=cluster))
        await do(log, RemoveHost(id=gone))
        old_id, head = log.log_id, await log.head()
        path = tmp_path / "backup"
        await back_up(installed(tmp_path / "old", database), path)
        await do(log, AddHost(name="after", cluster=cluster))

    restored = await bring_back(path, installed(tmp_path / "new", second).folder.root)

    assert restored.log is not None
    before, after = await history(database.url), await history(second.url)
    assert after[:head] == before[:head]
    assert [recorded.name for recorded in after[head:]] == [
        "log.restored",
        "host.state_unconfirmed",
    ]
    assert after[head].stream == f"log/{restored.log.log_id}"
    assert after[head + 1].stream == f"host/{kept}"
    assert after[head].time >= after[head - 1].time
    async with PostgresLog.open(second.url) as log:
        assert log.log_id == restored.log.log_id != old_id
        assert await log.claims() == await folded_claims(log, CODEC)
        with pytest.raises(OtherLogError):
            await anext(aiter(DirectStream(log).batches(Cursor(old_id, 1))))
        await do(log, CreateCluster(name="c2", data_center=data_center))  # it goes on
    await back_up(Installation.open(tmp_path / "new"), tmp_path / "again")
    assert verified(tmp_path / "again").events == head + 3


async def test_readers_of_kafka_begin_anew_on_the_restored_logs_topic(
    database: Database, second: Database, kafka: KafkaBroker, tmp_path: Path
) -> None:
    """The broker is the one that the lost installation used: its topic is there yet."""
    async with PostgresLog.open(database.url) as log:
        data_center = await do(log, CreateDataCenter(name="North"))
        path = tmp_path / "backup"
        manifest = await back_up(installed(tmp_path / "old", database), path)
        assert manifest.log is not None
        kept = manifest.log.position
        for name in ("lost", "lost-too"):
            await do(log, CreateCluster(name=name, data_center=data_center))
        head, old_id = await log.head(), log.log_id
        async with relaying(Relay(kafka.bootstrap, log, time_scale=SCALE)):
            read = await take(KafkaStream(kafka.bootstrap, log, time_scale=SCALE), START, head)
    cursor = read[-1].cursor
    assert cursor == Cursor(old_id, head, cursor.hint)

    await bring_back(path, installed(tmp_path / "new", second).folder.root)

    async with PostgresLog.open(second.url) as log:
        stream = KafkaStream(kafka.bootstrap, log, time_scale=SCALE)
        async with relaying(Relay(kafka.bootstrap, log, time_scale=SCALE)):
            # Who had read on is told, though the restored log has no such position yet, and later.
            with pytest.raises(OtherLogError) as told:
                await take(stream, cursor, 1)
            assert (told.value.expected, told.value.found) == (old_id, log.log_id)
            for number in range(head):
                await do(log, CreateCluster(name=f"new{number}", data_center=data_center))
            with pytest.raises(OtherLogError):
                await take(stream, cursor, 1)
            now = await log.head()
            anew = events_of(await take(stream, START, now))
    assert [one.position for one in anew] == list(range(1, now + 1))
    assert [one.name for one in anew[kept : kept + 1]] == ["log.restored"]
    assert anew == await stored(second.url)
    assert topic_name(old_id) in kafka.topics()
    assert kafka.record_count(topic_name(old_id)) == head, "the old topic is left as it was"


async def test_a_second_restore_never_gives_out_the_same_incarnations(
    database: Database, second: Database, tmp_path: Path
) -> None:
    async with PostgresLog.open(database.url) as log:
        await do(log, CreateDataCenter(name="North"))
    await back_up(installed(tmp_path / "old", database), tmp_path / "first")
    root = installed(tmp_path / "new", second).folder.root
    await bring_back(tmp_path / "first", root)
    await back_up(Installation.open(root), tmp_path / "second")
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("drop schema log cascade")

    await bring_back(tmp_path / "second", tmp_path / "old")

    floors = [
        recorded.event.incarnations_from  # type: ignore[attr-defined]
        for recorded in await history(database.url)
        if recorded.name == "log.restored"
    ]
    assert len(floors) == 2
    assert floors[0] < floors[1]


async def test_a_database_with_a_log_is_left_alone(
    database: Database, second: Database, tmp_path: Path
) -> None:
    for place in (database, second):
        async with PostgresLog.open(place.url) as log:
            await do(log, CreateDataCenter(name="North"))
    await back_up(installed(tmp_path / "old", database), tmp_path / "backup")
    before = await history(second.url)
    root = installed(tmp_path / "new", second).folder.root

    with pytest.raises(BackupError, match="already holds log"):
        await bring_back(tmp_path / "backup", root)

    assert await history(second.url) == before


async def test_a_restore_that_fails_leaves_the_database_empty(
    database: Database, second: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresLog.open(database.url) as log:
        await do(log, CreateDataCenter(name="North"))
    await back_up(installed(tmp_path / "old", database), tmp_path / "backup")
    root = installed(tmp_path / "new", second).folder.root

    def power_failure(*_arguments: object) -> None:
        raise BackupError("the power failed")

    monkeypatch.setattr(backup_restore_log, "_note", power_failure)
    with pytest.raises(BackupError, match="power"):
        await bring_back(tmp_path / "backup", root)
    monkeypatch.undo()
    assert await history(second.url) == []

    await bring_back(tmp_path / "backup", root)  # and can be tried again
    assert len(await history(second.url)) == 2


async def test_rows_that_read_back_differently_are_not_kept(
    database: Database, second: Database, tmp_path: Path
) -> None:
    """given a database that alters what it is given, then the restore is undone and says so"""
    async with PostgresLog.open(database.url) as log:
        await do(log, CreateDataCenter(name="North"))
    await back_up(installed(tmp_path / "old", database), tmp_path / "backup")
    async with PostgresLog.open(second.url):
        pass
    with psycopg.connect(second.url, autocommit=True) as connection:
        connection.execute(
            "create function log.lie() returns trigger language plpgsql as"
            " $$ begin new.actor = 'nobody'; return new; end $$"
        )
        connection.execute(
            "create trigger lie before insert on log.log for each row execute function log.lie()"
        )

    with pytest.raises(BackupError, match="reads back differently"):
        await bring_back(tmp_path / "backup", installed(tmp_path / "new", second).folder.root)

    assert await history(second.url) == []


async def test_the_vault_comes_back_sealed_and_opens_with_the_same_key_only(
    tmp_path: Path, database: Database, second: Database
) -> None:
    async with PostgresLog.open(database.url) as log:
        await do(log, CreateDataCenter(name="Default"))
    await asyncio.to_thread(migrate, database.url, SCHEMA, MIGRATIONS)
    key = EngineSecret(b"k" * 32)
    async with opened_vault(database, key) as vault:
        reference = await vault.put("correct horse")
    source = installed(tmp_path / "source", database)
    await back_up(source, tmp_path / "backup.zip")
    assert b"correct horse" not in (tmp_path / "backup.zip").read_bytes()
    assert verified(tmp_path / "backup.zip").events == 1
    installed(tmp_path / "target", second)
    await bring_back(tmp_path / "backup.zip", tmp_path / "target")
    async with opened_vault(second, key) as vault:
        assert await vault.get(reference) == "correct horse"
    async with opened_vault(second, EngineSecret(b"o" * 32)) as vault:
        with pytest.raises(SecretForgotten):
            await vault.get(reference)


@contextlib.asynccontextmanager
async def opened_vault(database: Database, key: EngineSecret) -> AsyncIterator[PostgresVault]:
    """Open the vault in a database."""
    pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection]
    pool = psycopg_pool.AsyncConnectionPool(
        database.url, min_size=1, timeout=5, open=False, kwargs={"autocommit": True}
    )
    async with pool:
        yield PostgresVault(pool, key)
