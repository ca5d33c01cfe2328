"""The harness itself: each part does with the real component what other tests rely on."""

import contextlib

import psycopg
import pytest

from tests.harness.postgres import Database, PostgresServer, find_binaries
from tests.harness.workspace import Workspace


class TestPostgresServer:
    """A real PostgreSQL that can be killed, paused and restarted."""

    def test_a_database_is_fresh_and_durable_over_a_kill(
        self, postgres: PostgresServer, database: Database
    ) -> None:
        """What was committed is there after kill -9, on the same port; what was not is gone."""
        with psycopg.connect(database.url, autocommit=True) as connection:
            tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
            assert connection.execute(tables).fetchone() == (0,)
            connection.execute("CREATE TABLE kept (number int)")
            connection.execute("INSERT INTO kept VALUES (7)")
        with contextlib.closing(psycopg.connect(database.url)) as open_transaction:
            open_transaction.execute("INSERT INTO kept VALUES (8)")

            postgres.kill()
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(database.url, connect_timeout=2)
            postgres.start()

        with psycopg.connect(database.socket_url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]

    def test_a_paused_server_answers_nothing_and_then_goes_on(
        self, postgres: PostgresServer, database: Database
    ) -> None:
        """SIGSTOP stops the postmaster and the backends; open connections survive it."""
        with psycopg.connect(database.url, autocommit=True) as connection:
            with postgres.paused(), pytest.raises(psycopg.OperationalError):
                psycopg.connect(database.url, connect_timeout=2)
            assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_a_copied_database_has_the_tables_of_its_template(
        self, postgres: PostgresServer, database: Database
    ) -> None:
        """A migrated database can be copied for each test instead of migrating each."""
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE migrated (number int)")
        copy = postgres.create_database("copy", template=database.name)
        with psycopg.connect(copy.url) as connection:
            assert connection.execute("SELECT count(*) FROM migrated").fetchone() == (0,)
        postgres.drop_database(copy)

    def test_the_durability_settings_are_the_safe_ones(self, database: Database) -> None:
        """The product refuses a cluster without fsync, so the harness must not be fast that way."""
        with psycopg.connect(database.url) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)

    @pytest.mark.skipif(find_binaries("debian") is None, reason="Debian's PostgreSQL is not here")
    def test_debians_server_starts_too(self, workspace: Workspace) -> None:
        """The oldest supported server, beside the wheel's."""
        server = PostgresServer(workspace, "debian")
        server.start()
        database = server.create_database()
        with psycopg.connect(database.url) as connection:
            version = connection.info.server_version // 10_000
        server.stop()
        assert version == server.version[0]
        assert not server.running
