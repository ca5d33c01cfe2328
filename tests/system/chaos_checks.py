"""What must hold after any chaos (CONTRACTS.md), checked against what lies on disk and arrived.

The log is read from PostgreSQL by plain SQL. Everything else is compared with what follows from it:
the table of claims, the answers, the inventory, the topic in Kafka, the warehouse in DuckDB, mails
and traps, and the machines themselves.
"""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx
import msgspec
import psycopg
from psycopg import sql

from chronovisor.installation import Installation
from events.codec import CODEC
from events.envelope import Recorded, Stored
from events.log.claims import ClaimTable, plan
from events.stream.kafka_topic import TopicReader
from hostagent.simulated import MACHINE_NAME
from hostagent.simulated_state import Machine
from projections.store import changes_of
from projections.views.inventory import Inventory
from tests.harness.kafka import KafkaBroker
from tests.harness.processes import wait_until
from tests.harness.smtp import SmtpReceiver
from tests.harness.snmp import SnmpReceiver
from tests.system.product import Json, Product

FOLLOWERS = ("engine", "policies", "projector", "relay", "dwh", "notifier")
AUDIT_INSTANCE = ".1.3.6.1.4.1.2312.13.1.1.2.1.1"
PAGE_EVENTS = 2_000
_EVENTS = """
select position, stream, version, name, schema, payload, time, actor, command, correlation,
    causation, addressee
from log.log order by position
"""
_LOST_ANSWERS = """
select a.principal, a.key, a.first, a.count from log.answers a
where a.count > 0 and (
    select count(*) from log.log l where l.position between a.first and a.first + a.count - 1
) <> a.count
"""
_UNANSWERED = """
select l.position from log.log l where not exists (
    select from log.answers a
    where a.count > 0 and l.position between a.first and a.first + a.count - 1
)
"""


class Truth:
    """The log as it lies in PostgreSQL, and what stands beside it."""

    def __init__(self, product: Product) -> None:
        self.dsn = Installation.open(product.root).dsn()
        with psycopg.connect(self.dsn) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            cursor = connection.execute(_EVENTS)
            names = [column.name for column in cursor.description or ()]
            self.stored = [Stored(**dict(zip(names, row, strict=True))) for row in cursor]
            self.claims = connection.execute(
                "select key, holder, mode, amount from log.claims"
            ).fetchall()
            self.lost_answers = connection.execute(_LOST_ANSWERS).fetchall()
            self.unanswered = connection.execute(_UNANSWERED).fetchall()
            keys = connection.execute("select key, first, count from log.answers").fetchall()
            self.answers = {key: (first, count) for key, first, count in keys}
            identity = connection.execute("select log_id from log.log_identity").fetchone()
        assert identity is not None
        self.log_id = identity[0]
        self.events: list[Recorded] = [CODEC.decode(one) for one in self.stored]

    @property
    def head(self) -> int:
        """The last position."""
        return len(self.stored)


def await_calm(
    product: Product, followers: Sequence[str] = FOLLOWERS, timeout_s: float = 150
) -> int:
    """Wait until every operation has ended and every part is at the log's head; return it."""
    said: Json = {}

    def calm() -> bool:
        nonlocal said
        try:
            said = product.get("/v1/health")
            said["open"] = product.items("/v1/operations", open="true")
        except (httpx.HTTPError, AssertionError) as error:
            said["error"] = str(error)
            return False
        at = {part["part"]: part["position"] for part in said["parts"]}
        return bool(
            said["ok"]
            and not said["open"]
            and all(at.get(part) == said["head"] for part in followers)
        )

    wait_until(
        calm,
        timeout_s,
        what="everything to come to rest",
        interval_s=0.3,
        detail=lambda: f"{json.dumps(said)[:4_000]}{product.last_words()}",
    )
    return int(said["head"])


def check_log(truth: Truth) -> None:
    """Positions have no gap, time never falls, streams' versions count up, and every event was
    somebody's who was answered.
    """
    assert [one.position for one in truth.stored] == list(range(1, truth.head + 1))
    for before, after in itertools.pairwise(truth.stored):
        assert before.time <= after.time, f"time falls at position {after.position}"
    versions: collections.Counter[str] = collections.Counter()
    for one in truth.stored:
        versions[one.stream] += 1
        assert one.version == versions[one.stream], f"{one.stream} has a gap at {one.position}"
    assert truth.lost_answers == [], "an answer is there, its events are not"
    assert truth.unanswered == [], "events are there that no answer tells of"


def check_runs(truth: Truth) -> None:
    """No incarnation is placed twice, and none is placed while an older one may still run."""
    running: dict[str, int] = {}
    last: collections.Counter[str] = collections.Counter()
    for one in truth.events:
        incarnation = getattr(one.event, "incarnation", 0)
        if one.name == "vm.placed":
            assert one.stream not in running, f"{one.stream} is placed twice at {one.position}"
            assert incarnation == last[one.stream] + 1, f"{one.stream} skips an incarnation"
            running[one.stream], last[one.stream] = incarnation, incarnation
        elif one.name in {"vm.down", "vm.suspended"}:
            assert running.pop(one.stream, None) == incarnation, f"{one.name} at {one.position}"


def check_claims(truth: Truth) -> None:
    """The table of claims is the fold of all events."""
    table = ClaimTable()
    for one in truth.events:
        table.apply(plan(one.event.claims(one.stream)).effects)
    folded = {
        (key, holder, str(held.mode), held.amount) for (key, holder), held in table.rows().items()
    }
    assert set(truth.claims) == folded
    assert len(truth.claims) == len(folded)


def check_inventory(truth: Truth) -> None:
    """Every row of every table of the inventory is what a fold of the whole log makes."""
    inventory = Inventory()
    for one in truth.events:
        inventory.apply(one)
    inventory.finish()
    expected: dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]] = {}
    for change in changes_of(inventory):
        columns = tuple(name for name, _ in change.part.columns)
        _, rows = expected.setdefault(change.part.table, (columns, []))
        rows += change.rows
    with psycopg.connect(truth.dsn) as connection:
        place = connection.execute("select log_id, position from inventory.cursor").fetchone()
        assert place == (truth.log_id, truth.head)
        for table, (columns, rows) in expected.items():
            names = sql.SQL(", ").join(map(sql.Identifier, columns))
            statement = sql.SQL("select {} from inventory.{}").format(names, sql.Identifier(table))
            found = connection.execute(statement).fetchall()
            assert differences(columns, found, rows) == [], f"inventory.{table}"


def differences(
    columns: Sequence[str], found: Iterable[tuple[Any, ...]], expected: Iterable[tuple[Any, ...]]
) -> list[str]:
    """Return what differs between rows that were found and rows that should be, by their keys."""
    here, there = ({str(row[:2]): row for row in rows} for rows in (found, expected))
    said = []
    for key in sorted(here.keys() | there.keys()):
        mine, theirs = here.get(key), there.get(key)
        if mine is None or theirs is None:
            said.append(f"{key}: {'missing' if mine is None else 'too many'}")
            continue
        for column, one, other in zip(columns, mine, theirs, strict=True):
            if one != other:
                said.append(f"{key}.{column}: found {one!r}, should be {other!r}")
    return said[:20]


def check_kafka(truth: Truth, kafka: KafkaBroker) -> None:
    """The topic holds the log's bytes in the log's order, once doubles are dropped."""
    reader = TopicReader(kafka.bootstrap, truth.log_id, {})
    try:
        reader.open()
        bounds = reader.bounds()
        reader.seek(bounds.begin)
        position, offset = 0, bounds.begin
        while offset < bounds.end:
            records = wait_until(
                lambda: reader.poll(PAGE_EVENTS), 30, what=f"the topic up to {bounds.end}"
            )
            for record in records:
                offset = record.offset + 1
                assert record.stored is not None, f"a strange record at offset {record.offset}"
                if record.stored.position > position:
                    position += 1
                assert record.stored == truth.stored[record.stored.position - 1]
                assert record.stored.position <= position, f"a hole at {position}"
        assert position == truth.head
    finally:
        reader.close()


def check_warehouse(product: Product, truth: Truth) -> None:
    """The warehouse holds each event once, with its payload, and no sample twice."""
    found: list[tuple[Any, ...]] = []
    for after in range(0, truth.head, PAGE_EVENTS):
        found += product.history(
            "select position, stream, version, name, actor, payload::varchar from events"
            f" where position > {after} and position <= {after + PAGE_EVENTS} order by position"
        )
    assert len(found) == truth.head
    for row, one in zip(found, truth.stored, strict=True):
        facts = (one.position, one.stream, one.version, one.name, one.actor)
        assert row[:5] == facts
        assert msgspec.json.decode(row[5]) == msgspec.json.decode(one.payload)
    for table, key in (
        ("host_samples", "host, boot, time"),
        ("vm_samples", "host, vm, incarnation, time"),
    ):
        doubles = product.history(
            f"select {key}, count(*) from {table} group by {key} having count(*) > 1"
        )
        assert doubles == [], f"doubled samples in {table}"


def check_notifications(
    product: Product, truth: Truth, smtp: SmtpReceiver, snmp: SnmpReceiver, event: str
) -> None:
    """Each audit record was told to both; a doubled mail is known by its Message-ID."""
    audits = (one for one in truth.events if (audit := one.event.audit()) and audit.name == event)
    positions = {str(one.position) for one in audits}

    def mail_ids() -> set[str]:
        return {str(mail.message["Message-ID"]) for mail in smtp.mails}

    wait_until(
        lambda: len(mail_ids()) >= len(positions),
        90,
        what=f"{len(positions)} mails",
        detail=lambda: f"{len(mail_ids())} came\n{product.last_words()}",
    )
    assert len(mail_ids()) == len(positions)

    def told() -> set[str]:
        return {trap.value(AUDIT_INSTANCE) for trap in snmp.traps}

    wait_until(
        lambda: told() >= positions, 90, what="all traps", detail=lambda: str(positions - told())
    )
    assert told() == positions


def check_simulated_machines(product: Product, truth: Truth) -> None:
    """Of each VM there is one domain at most, and it is the run that the log knows."""
    runs: dict[str, tuple[str, int]] = {}
    for one in truth.events:
        vm, event = one.object_id, one.event
        if one.name == "vm.placed":
            runs[vm] = (event.host, event.incarnation)  # type: ignore[attr-defined]
        elif one.name in {"vm.down", "vm.suspended"}:
            runs.pop(vm, None)
    seen: dict[str, tuple[str, int]] = {}
    files = sorted(product.folder.hosts.glob(f"simulated/*/{MACHINE_NAME}"))
    machines = {file.parent.name for file in files}
    names = {
        host["name"]: host["id"] for host in product.items("/v1/hosts") if host["name"] in machines
    }
    for file in files:
        machine = msgspec.json.decode(file.read_bytes(), type=Machine)
        for vm, domain in machine.domains.items():
            assert vm not in seen, f"{vm} runs on {seen[vm]} and on {file.parent.name}"
            seen[vm] = (names[file.parent.name], domain.incarnation)
    assert seen == {vm: run for vm, run in runs.items() if run[0] in names.values()}


def check_keys(truth: Truth, keys: Mapping[str, int | None]) -> None:
    """Each accepted command is in the log once, under its key: with so many events (None: any)."""
    for key, count in keys.items():
        assert key in truth.answers, f"the accepted command {key} is not in the log"
        assert count is None or truth.answers[key][1] == count


def check_all(
    product: Product, kafka: KafkaBroker | None = None, followers: Iterable[str] = FOLLOWERS
) -> Truth:
    """Come to rest, then check all that needs no receiver; return the log."""
    head = await_calm(product, tuple(followers))
    truth = Truth(product)
    if truth.head != head:  # a host said something meanwhile
        await_calm(product, tuple(followers))
        truth = Truth(product)
    check_log(truth)
    check_runs(truth)
    check_claims(truth)
    check_inventory(truth)
    check_warehouse(product, truth)
    check_simulated_machines(product, truth)
    if kafka is not None:
        check_kafka(truth, kafka)
    return truth
