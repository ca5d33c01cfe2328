"""The call that appends a group, on its own: the guard that holds even where the batcher fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from events.log import arrays
from events.log.group import DEFERRED, Deferred, encode, outcomes, parameters, rising_times
from events.log.migrate import migrate
from events.log.port import Append, Appended, Claimed, Conflict, KeyReused, Outcome
from events.log.preparation import prepare
from events.log.statements import statement
from tests.contract.sample_events import (
    SAMPLE_CODEC,
    amount,
    check,
    command,
    exclusive,
    noted,
    release,
    shared,
)
from tests.harness.postgres import Database

pytestmark = pytest.mark.integration


class Caller:
    """Sends groups as they are, without a batcher."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.connection = connection
        arrays.register(connection)

    def send(self, *appends: Append) -> list[Outcome | Deferred]:
        group = [encode(prepare(append, SAMPLE_CODEC)) for append in appends]
        times = rising_times(group)
        cursor = self.connection.execute(
            statement("append_group"), parameters(group, times), binary=True
        )
        return outcomes(group, times, cursor.fetchall())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query).fetchall()


@pytest.fixture
def caller(database: Database) -> Iterator[Caller]:
    migrate(database.url)
    with psycopg.connect(database.url, autocommit=True) as connection:
        yield Caller(connection)


def kinds(found: list[Outcome | Deferred]) -> list[str]:
    return [type(outcome).__name__ for outcome in found]


def test_a_group_is_appended_in_its_order(caller: Caller) -> None:
    found = caller.send(command({}, noted("a"), noted("a")), command({}), command({}, noted("b")))
    assert [(one.first, one.count) for one in found if isinstance(one, Appended)] == [
        (1, 2),
        (3, 0),
        (3, 1),
    ]
    assert caller.rows("select position, stream, version from log.log order by 1") == [
        (1, "a", 1),
        (2, "a", 2),
        (3, "b", 1),
    ]
    assert caller.rows("select first, count from log.answers order by first, count") == [
        (1, 2),
        (3, 0),
        (3, 1),
    ]


def test_who_reads_what_an_earlier_one_writes_is_deferred(caller: Caller) -> None:
    writes, reads = command({}, noted("a")), command({"a": 0}, noted("b"))
    assert kinds(caller.send(writes, reads)) == ["Appended", "Deferred"]
    assert caller.send(reads) == [Conflict(stream="a", expected=0, actual=1)]


def test_two_writers_of_one_stream_are_not_taken_together(caller: Caller) -> None:
    found = caller.send(command({}, noted("a")), command({}, noted("a")), command({}, noted("b")))
    assert kinds(found) == ["Appended", "Deferred", "Appended"]


def test_nobody_waits_for_a_command_that_is_refused_anyway(caller: Caller) -> None:
    found = caller.send(command({"x": 9}, noted("a")), command({}, noted("a")))
    assert kinds(found) == ["Conflict", "Appended"]


def test_one_key_twice_in_a_group_is_deferred_and_then_known(caller: Caller) -> None:
    first = command({}, noted("a"), key="k", answer=b"one")
    again = command({}, noted("b"), key="k", answer=b"two")
    other = command({}, noted("c"), key="k", mac=b"another")
    assert kinds(caller.send(first, again, other)) == ["Appended", "Deferred", "Deferred"]
    known, reused = caller.send(again, other)
    assert isinstance(known, Appended)
    assert (known.answer, known.repeated) == (b"one", True)
    assert reused == KeyReused(key="k")


def test_a_name_taken_twice_in_a_group_is_deferred_and_then_refused(caller: Caller) -> None:
    first = command({}, noted("a", exclusive("n", "a")))
    second = command({}, noted("b", exclusive("n", "b")))
    looking = command({}, noted("c", check("n", "c")))
    assert kinds(caller.send(first, second, looking)) == ["Appended", "Deferred", "Deferred"]
    refusal = Claimed(key="n", holder="a", mode="exclusive")
    assert caller.send(second) == [refusal]
    assert caller.send(looking) == [refusal]


def test_shared_claims_never_defer_each_other(caller: Caller) -> None:
    group = [
        command({}, noted(f"vm/{n}", check("gate", f"vm/{n}"), shared("host", f"vm/{n}")))
        for n in range(50)
    ]
    assert set(kinds(caller.send(*group))) == {"Appended"}
    leaving = [
        command({f"vm/{n}": 1}, noted(f"vm/{n}", release("host", f"vm/{n}"))) for n in range(50)
    ]
    coming = [command({}, noted(f"new/{n}", shared("host", f"new/{n}"))) for n in range(50)]
    assert set(kinds(caller.send(*leaving, *coming))) == {"Appended"}
    assert caller.rows("select count(*) from log.claims") == [(50,)]


def test_a_removal_waits_for_the_reference_before_it(caller: Caller) -> None:
    refers = command({}, noted("vm/1", shared("host", "vm/1")))
    removes = command({}, noted("host", exclusive("host", "host")))
    assert kinds(caller.send(refers, removes)) == ["Appended", "Deferred"]
    assert caller.send(removes) == [Claimed(key="host", holder="vm/1", mode="shared")]


def test_a_refusal_that_a_release_before_it_would_undo_is_deferred(caller: Caller) -> None:
    caller.send(command({}, noted("host", exclusive("gate", "host"))))
    opens = command({"host": 1}, noted("host", release("gate", "host")))
    places = command({}, noted("vm/1", check("gate", "vm/1")))
    assert caller.send(places) == [Claimed(key="gate", holder="host", mode="exclusive")]
    assert kinds(caller.send(opens, places)) == ["Appended", "Deferred"]
    assert kinds(caller.send(places)) == ["Appended"]


def test_amounts_of_a_group_are_added_up_in_its_order(caller: Caller) -> None:
    group = [command({}, noted(f"vm/{n}", amount("cpu", f"vm/{n}", 3, 10))) for n in range(5)]
    found = caller.send(*group)
    assert kinds(found) == ["Appended"] * 3 + ["Deferred"] * 2
    assert kinds(caller.send(group[3]) + caller.send(group[4])) == ["Claimed", "Claimed"]
    assert caller.rows("select sum(amount) from log.claims") == [(9,)]


def test_one_holding_changed_twice_in_a_group_is_deferred(caller: Caller) -> None:
    takes = command({}, noted("a", shared("n", "x")))
    gives_back = command({}, noted("b", release("n", "x")))
    assert caller.send(takes, gives_back)[1] == DEFERRED
    caller.send(gives_back)
    assert caller.rows("select * from log.claims") == []


def test_a_need_may_leave_out_several_holders(caller: Caller) -> None:
    caller.send(command({}, noted("a", shared("n", "a")), noted("b", shared("n", "b"))))
    both = command({"a": 1}, noted("a", release("n", "a"), release("n", "b"), exclusive("n", "c")))
    one = command({"a": 1}, noted("a", release("n", "a"), exclusive("n", "c")))
    # A command before them shifts the numbers of their needs.
    before = command({}, noted("z", exclusive("other", "z")))
    assert caller.send(before, one)[1] == Claimed(key="n", holder="b", mode="shared")
    assert kinds(caller.send(both)) == ["Appended"]
    assert caller.rows("select holder, mode from log.claims where key = 'n'") == [
        ("c", "exclusive")
    ]


def test_a_group_that_is_refused_whole_leaves_nothing(caller: Caller) -> None:
    found = caller.send(command({"x": 1}, noted("a")), command({"x": 2}, noted("b")))
    assert kinds(found) == ["Conflict", "Conflict"]
    assert caller.rows("select count(*) from log.log") == [(0,)]
    assert caller.rows("select count(*) from log.answers") == [(0,)]


def test_another_isolation_than_read_committed_is_refused(caller: Caller) -> None:
    caller.connection.execute("set default_transaction_isolation = 'repeatable read'")
    with pytest.raises(psycopg.errors.RaiseException, match="READ COMMITTED"):
        caller.send(command({}, noted("a")))


def test_processes_that_start_at_once_make_the_tables_once(database: Database) -> None:
    applied: list[int] = []
    starts = [
        threading.Thread(target=lambda: applied.append(migrate(database.url))) for _ in range(6)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join(60)
    assert sorted(applied)[:-1] == [0] * 5
    assert applied
    assert max(applied) > 0
    assert migrate(database.url) == 0


def test_a_migration_that_fails_leaves_nothing_and_can_be_repeated(
    database: Database, tmp_path: Any
) -> None:
    script = tmp_path / "0001.broken.sql"
    script.write_text("create table broken.one (id int);\nselect 1 / 0;\n")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(database.url, "broken", tmp_path)
    script.write_text("create table broken.one (id int);\n")
    assert migrate(database.url, "broken", tmp_path) == 1
