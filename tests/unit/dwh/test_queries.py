"""Read-only queries: what is answered, what is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import duckdb
import orjson
import pyarrow as pa
import pytest

from dwh.queries import Execution, Format, Query, QueryRefusedError
from dwh.warehouse import Warehouse
from tests.unit.dwh.samples import batch, stored, vm_created


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    warehouse = Warehouse(tmp_path_factory.mktemp("dwh"), memory_bytes_max=256 * 1024**2)
    warehouse.take_events(batch(stored(1, "vm/v1", vm_created())))
    yield warehouse
    warehouse.close()


def ask(warehouse: Warehouse, sql: str, **options: int) -> list[list[object]]:
    query = Query(sql=sql, rows_max=options.get("rows_max", 100))
    _, content = Execution(warehouse.connection, query).run()
    answer: list[list[object]] = orjson.loads(content)
    return answer


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*) FROM events", [[1]]),
        ("WITH a AS (SELECT 1 AS b) SELECT b + 1 FROM a", [[2]]),
        ("VALUES (1, 'x')", [[1, "x"]]),
        ("SELECT time FROM events", [["2026-01-02T03:04:06Z"]]),
        ("SELECT 1.50::DECIMAL(5,2), 'nan'::DOUBLE, NULL", [[1.5, None, None]]),
        ("SELECT payload ->> 'name' FROM events", [["web01"]]),
        ("SELECT [1, 2], {'a': 1}", [[[1, 2], {"a": 1}]]),
        ("SELECT 170141183460469231731687303715884105727::HUGEINT", [[str(2**127 - 1)]]),
        ("SELECT '\\xAB'::BLOB", [["ab"]]),
        ("SELECT interval 90 seconds", [["P0M0DT90S"]]),
        ("SELECT 1 WHERE false", []),
    ],
)
def test_it_answers(warehouse: Warehouse, sql: str, expected: list[list[object]]) -> None:
    assert ask(warehouse, sql) == expected


def test_the_tables_can_be_looked_up(warehouse: Warehouse) -> None:
    names = [row[0] for row in ask(warehouse, "SHOW TABLES")]
    assert {"events", "audit", "vm_samples", "vm_runs"} <= set(names)
    assert len(ask(warehouse, "DESCRIBE events")) == 12


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM events",
        "INSERT INTO events SELECT * FROM events",
        "DROP TABLE events",
        "CREATE TABLE x (a INTEGER)",
        "SELECT 1; DELETE FROM events",
        "COPY events TO 'out.csv'",
        "EXPLAIN ANALYZE DELETE FROM events",
        "ATTACH ':memory:' AS other",
        "SET threads = 8",
        "PRAGMA database_size",
        "CALL pragma_version()",
        "CHECKPOINT",
        "INSTALL httpfs",
        "LOAD httpfs",
        "COMMIT",
        "SELEC 1",
        "",
        "-- nothing",
    ],
)
def test_what_is_no_single_select_is_refused(warehouse: Warehouse, sql: str) -> None:
    with pytest.raises(QueryRefusedError):
        ask(warehouse, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('https://localhost/x')",
        "SELECT * FROM query('DELETE FROM events')",
        "SELECT getenv('PATH')",
    ],
)
def test_nothing_outside_is_reached(warehouse: Warehouse, sql: str) -> None:
    with pytest.raises(duckdb.Error):
        ask(warehouse, sql)


def test_bounds_are_kept(warehouse: Warehouse) -> None:
    head, content = Execution(
        warehouse.connection, Query(sql="SELECT range FROM range(100000)", rows_max=2_500)
    ).run()
    assert (head.rows, head.truncated, len(orjson.loads(content))) == (2_500, True, 2_500)
    exact = Execution(
        warehouse.connection, Query(sql="SELECT range FROM range(10)", rows_max=10)
    ).run()
    assert (exact[0].rows, exact[0].truncated) == (10, False)
    for wrong in (Query(sql="SELECT 1", rows_max=0), Query(sql="SELECT 1", timeout_s=1e6)):
        with pytest.raises(QueryRefusedError):
            Execution(warehouse.connection, wrong).run()


def test_a_huge_answer_is_cut_off(warehouse: Warehouse) -> None:
    sql = "SELECT repeat('x', 1000000) FROM range(100)"
    for form in Format:
        query = Query(sql=sql, rows_max=1_000, format=form)
        head, content = Execution(warehouse.connection, query).run()
        assert head.truncated
        assert head.rows < 100
        assert len(content) < 34 * 1024**2


def test_arrow_is_answered_as_a_stream(warehouse: Warehouse) -> None:
    query = Query(sql="SELECT range AS n FROM range(5000)", format=Format.ARROW)
    head, content = Execution(warehouse.connection, query).run()
    table = pa.ipc.open_stream(content).read_all()
    assert (head.rows, table.num_rows, table.column_names) == (5000, 5000, ["n"])
    assert [column.type for column in head.columns] == ["BIGINT"]


def test_more_than_memory_spills_or_fails_but_never_ends_the_process(
    warehouse: Warehouse,
) -> None:
    sql = "SELECT count(*) FROM (SELECT md5(range::VARCHAR) m FROM range(3000000) ORDER BY m)"
    try:
        assert ask(warehouse, sql) == [[3_000_000]]
    except duckdb.OutOfMemoryException:
        assert ask(warehouse, "SELECT 1") == [[1]]


def test_a_running_query_can_be_interrupted(warehouse: Warehouse) -> None:
    sql = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b"
    execution = Execution(warehouse.connection, Query(sql=sql))
    timer = threading.Timer(0.3, execution.interrupt)
    timer.start()
    started = time.monotonic()
    with pytest.raises(duckdb.InterruptException):
        execution.run()
    assert time.monotonic() - started < 60
