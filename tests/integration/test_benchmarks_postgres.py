"""What a benchmark's table says of PostgreSQL is asked of servers that really run."""

from __future__ import annotations

from typing import Any, cast

import psycopg
import pytest

from benchmarks._machine import postgres
from benchmarks._vacuum import care, shown
from tests.harness.postgres import Database

pytestmark = pytest.mark.integration


def test_the_machine_s_facts_name_version_and_settings_of_both_servers() -> None:
    facts = cast("dict[str, Any]", postgres())

    assert set(facts) == {"tests", "product"}
    for server in facts.values():
        assert int(server["version"].split(".")[0]) >= 15
        assert server["settings"]["synchronous_commit"] == "on"
        assert server["settings"]["fsync"] == "on"
        assert {"shared_buffers", "wal_sync_method", "max_wal_size"} <= set(server["settings"])
    # Each as its own server has it.
    assert facts["tests"]["settings"]["shared_buffers"] == "64MB"
    assert facts["product"]["settings"]["shared_buffers"] == "128MB"


def test_dead_rows_and_vacuums_are_told_of_each_table_that_matters(database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("create schema health")
        connection.execute("create schema inventory")
        for table in ("health.parts", "inventory.vms", "inventory.hosts"):
            connection.execute(f"create table {table} (n int) with (autovacuum_enabled = off)")
            connection.execute(f"insert into {table} select generate_series(1, 100)")
        connection.execute("update inventory.vms set n = n + 1 where n <= 40")
        connection.execute("vacuum health.parts")
        connection.execute("select pg_stat_force_next_flush()")
        told = dict(shown(care(connection)))

    assert told["health.parts: dead rows"] == 0
    assert told["inventory.vms: dead rows"] == 40
    assert told["all 2 tables of the inventory: live rows"] == 200
    assert told["all 2 tables of the inventory: dead rows"] == 40
    assert told["all 2 tables of the inventory: vacuumed by itself, times"] == 0
    assert told["all tables: vacuumed by hand, times"] == 1
