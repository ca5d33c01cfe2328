"""Lists, single objects, waiting, history."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dwh import client as warehouse
from dwh.queries import Answer, Column, Failure, Query
from tests.unit.cli.conftest import CLUSTER, HOST, OPERATION, VM, Cli, FakeEngine


def test_a_list_is_a_table_for_people(cli: Cli) -> None:
    heading, row = cli("vm", "list").stdout.splitlines()
    assert heading.split()[:2] == ["NAME", "STATUS"]
    assert row.split()[:4] == ["web01", "up", "1", "GiB"]


def test_a_list_is_json_for_programs(cli: Cli, engine: FakeEngine) -> None:
    assert cli.json("vm", "list") == engine.objects["vms"]


def test_a_list_is_narrowed_and_names_become_ids(cli: Cli, engine: FakeEngine) -> None:
    cli("vm", "list", "--cluster", "Default", "--host", f"kvm01,{VM}", "--status", "up,down")
    asked = engine.asked[-1].url.params
    assert asked["cluster"] == CLUSTER
    assert asked["host"] == f"{HOST},{VM}"
    assert asked["status"] == "up,down"
    assert asked["sort"] == "name"


def test_a_list_asks_for_what_it_shows(cli: Cli, engine: FakeEngine) -> None:
    cli("vm", "list")
    assert {"id", "name", "addresses"} <= set(engine.asked[-1].url.params["fields"].split(","))
    cli.json("vm", "list")
    assert engine.asked[-1].url.params["fields"] == "*"


def test_pages_are_followed_up_to_the_limit(cli: Cli, engine: FakeEngine) -> None:
    engine.objects["vms"] = [{"id": f"{n}", "name": f"v{n}"} for n in range(1_234)]
    assert len(cli.json("vm", "list", "--limit", "1200")) == 1_200
    assert len(cli.json("vm", "list", "--limit", "5000")) == 1_234


def test_one_object_is_shown_with_what_is_inside(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(
        200,
        {
            "id": VM,
            "memory_bytes": 1 << 30,
            "cluster": {"id": CLUSTER, "name": "Default"},
            "topology": {"sockets": 1, "cores": 2},
            "nics": [{"name": "nic0", "mac": "56:6f:1a:00:00:01"}],
            "addresses": ["10.0.0.1", "10.0.0.2"],
            "delete_protected": False,
        },
    )
    lines = [line.split("  ") for line in cli("vm", "show", "web01").stdout.splitlines()]
    shown = "\n".join(" ".join(part.strip() for part in line if part) for line in lines)
    for part in (
        *("memory bytes 1 GiB", "cluster Default", "cores 2", "name nic0, mac 56:6f:1a:00:00:01"),
        *("addresses 10.0.0.1, 10.0.0.2", "delete protected no"),
    ):
        assert part in shown


def test_a_dry_run_is_a_table_and_says_how_many_hosts_are_not_in_it(
    cli: Cli, engine: FakeEngine
) -> None:
    fits = {"host_name": "kvm01", "rank": 1, "score": 7, "weights": {"HA": 1}, "reasons": []}
    off: dict[str, Any] = {
        "host_name": "kvm02",
        "rank": None,
        "score": 0,
        "weights": {},
        "reasons": ["It is off."],
    }
    placed = {"scheduling": {"policy": "none"}, "host_name": "kvm01", "hosts": [fits, off]}
    engine.tell(200, {**placed, "hosts_total": 2})
    engine.tell(200, {**placed, "hosts_total": 10_002})
    shown = cli("vm", "placement", "web01").stdout
    assert "host: kvm01" in shown
    assert "It is off." in shown
    assert "not shown" not in shown
    assert "10000 more hosts are not shown" in cli("vm", "placement", "web01").stdout


def test_an_object_is_shown_as_it_was(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(200, {"id": VM})
    assert cli.json("vm", "show", VM, "--at", "2026-01-01T00:00:00Z") == {"id": VM}
    assert engine.asked[-1].url.params["at"] == "2026-01-01T00:00:00Z"


def test_events_are_shown_by_their_number(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(200, {"id": "7"})
    cli("event", "show", "7")
    assert engine.asked[-1].url.path == "/v1/events/7"


def test_the_engines_ssh_key_is_a_line_for_authorized_keys(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(200, {"public_key": "ssh-ed25519 AAAA chronovisor", "fingerprint": "SHA256:x"})
    assert cli("ssh-key", "show").stdout == "ssh-ed25519 AAAA chronovisor\n"
    assert engine.asked[-1].url.path == "/v1/ssh_key"


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 4), ("cancelled", 4)])
def test_an_operation_is_waited_for(cli: Cli, engine: FakeEngine, status: str, code: int) -> None:
    engine.tell(200, {"id": OPERATION, "status": "running", "ended_at": None})
    engine.tell(200, {"id": OPERATION, "status": status, "ended_at": "2026-01-01T00:00:00Z"})
    cli("operation", "wait", OPERATION, code=code)


def test_an_operation_that_does_not_end_in_time(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(200, {"id": OPERATION, "status": "running", "ended_at": None})
    cli("operation", "wait", OPERATION, "--timeout", "0.05s", code=5)


class Warehouse:
    """A warehouse that answers what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer = Answer(columns=(Column(name="n", type="BIGINT"),), rows=1)
        self.rows: list[list[Any]] = [[7]]
        self.error: Exception | None = None
        self.asked: list[tuple[Path, Query]] = []
        monkeypatch.setattr(warehouse, "ask", self._ask)

    async def _ask(self, path: Path, query: Query) -> tuple[Answer, bytes]:
        await asyncio.sleep(0)
        self.asked.append((path, query))
        if self.error is not None:
            raise self.error
        return self.answer, msgspec.json.encode(self.rows)


@pytest.fixture
def dwh(monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    return Warehouse(monkeypatch)


def test_history_is_asked_in_sql(cli: Cli, dwh: Warehouse, tmp_path: Path) -> None:
    assert cli.json("history", "select 7 as n", "--dir", str(tmp_path)) == [{"n": 7}]
    ((path, query),) = dwh.asked
    assert path == tmp_path / "run" / "query.sock"
    assert query.sql == "select 7 as n"
    assert cli("history", "select 7 as n").stdout.split() == ["N", "7"]


def test_history_says_where_rows_are_missing(cli: Cli, dwh: Warehouse) -> None:
    dwh.answer = msgspec.structs.replace(dwh.answer, truncated=True)
    assert "Only the first 1 rows" in cli("history", "select 1").stderr


@pytest.mark.parametrize(
    ("failure", "code"),
    [(Failure.REFUSED, 3), (Failure.TIMED_OUT, 5), (Failure.FAILED, 1), (Failure.BUSY, 1)],
)
def test_history_that_is_not_answered(
    cli: Cli, dwh: Warehouse, failure: Failure, code: int
) -> None:
    dwh.answer = Answer(failure=failure, message="only SELECT")
    assert "only SELECT" in cli("history", "drop table x", code=code).stderr


@pytest.mark.parametrize(
    ("error", "code"), [(FileNotFoundError("no socket"), 6), (TimeoutError(), 5)]
)
def test_history_without_a_warehouse(cli: Cli, dwh: Warehouse, error: Exception, code: int) -> None:
    dwh.error = error
    cli("history", "select 1", code=code)
