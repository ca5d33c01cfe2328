"""The notifier with a real mail server and a real SNMP manager, which go down; and under kills."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from events.envelope import NewEvent
from events.log.memory import MemoryLog
from events.log.port import Append, Appended, Log
from events.log.postgres import PostgresLog
from events.stream.direct import DirectStream
from events.types.base import Event
from events.types.host import HostAdded
from events.types.vm import DownReason, VmDown, VmUp
from notifier import process
from notifier.channel import Channel
from notifier.mail import MailChannel, MailSettings
from notifier.notification import Notification
from notifier.process import Notifier
from notifier.store import Address, Place, Store
from notifier.traps import TrapChannel, TrapSettings
from tests.contract.sample_events import SAMPLE_CODEC, command, noted
from tests.harness.postgres import Database
from tests.harness.smtp import SmtpReceiver
from tests.harness.snmp import SnmpReceiver
from tests.harness.workspace import PROJECT_ROOT, Workspace

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
CHILD = PROJECT_ROOT / "tests" / "integration" / "notifier_child.py"
SCALE = 0.02
OBJECTS = "1.3.6.1.4.1.2312.13.1.1.2.1"
ANN = "ann@example.org"
TO_ANN = f"include:*(smtp:{ANN})"


def vm_down(name: str) -> VmDown:
    return VmDown(name=name, host="h1", host_name="node1", incarnation=1, reason=DownReason.CRASHED)


def vm_up(name: str) -> VmUp:
    return VmUp(name=name, host="h1", host_name="node1", incarnation=1)


async def record(log: Log, *events: Event) -> None:
    """Append events, each on a stream of its own."""
    for event in events:
        stream = f"{'host' if isinstance(event, HostAdded) else 'vm'}/{uuid.uuid4()}"
        outcome = await log.append(
            Append(
                command=uuid.uuid4(),
                principal="ann",
                actor="ann",
                reads={stream: 0},
                events=(NewEvent(stream, event),),
                time=dt.datetime.now(dt.UTC),
            )
        )
        assert isinstance(outcome, Appended), outcome


async def eventually(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        await asyncio.sleep(0.05)


def mail_settings(smtp: SmtpReceiver, folder: Path, **changes: Any) -> MailSettings:
    password = folder / "mail.password"
    password.write_text(smtp.password + "\n")
    settings: dict[str, Any] = {
        "server": smtp.host,
        "port": smtp.port,
        "encryption": smtp.security,
        "user": smtp.username,
        "password_file": password if smtp.username else None,
        "ca_file": smtp.certificate,
        "sender": "Chronovisor <chronovisor@example.org>",
        "timeout_s": 5.0,
    }
    return MailSettings(**{**settings, **changes})


def traps(snmp: SnmpReceiver, folder: Path, *, inform: bool) -> TrapChannel:
    community = folder / "community"
    community.write_text(snmp.community + "\n")
    manager = f"{snmp.host}:{snmp.port}"
    profile = TrapSettings(
        managers=(manager,), community_file=community, inform=inform, inform_timeout_s=0.5
    )
    return TrapChannel({"": profile})


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    return workspace.make_folder("notifier", mode=0o700)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@contextlib.asynccontextmanager
async def notifying(
    log: MemoryLog,
    folder: Path,
    text: str,
    channels: Sequence[Channel] = (),
    start: str = "beginning",
) -> AsyncIterator[Notifier]:
    notifier = Notifier(
        DirectStream(log, wait_s=0.2), text, channels, folder, start=start, time_scale=SCALE
    )
    task = asyncio.create_task(notifier.run())
    try:
        yield notifier
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "notifications.log"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_mail_goes_out_encrypted_and_authenticated(
    log: MemoryLog, folder: Path, smtp: SmtpReceiver
) -> None:
    channel = MailChannel(mail_settings(smtp, folder, reply_to="noc@example.org"))
    async with notifying(log, folder, f"include:VM_DOWN_ERROR(smtp:{ANN})", [channel]):
        await record(log, vm_up("web01"), vm_down("web01"))
        await eventually(lambda: len(smtp.mails) == 1, "the mail")
    (mail,) = smtp.mails
    assert (mail.encrypted, mail.user, mail.recipients) == (True, smtp.username, (ANN,))
    assert mail.subject.startswith("[Chronovisor] Error: VM web01 is down with error")
    assert mail.message["Reply-To"] == "noc@example.org"
    assert mail.message["From"] == "Chronovisor <chronovisor@example.org>"
    assert "Host Name: node1" in mail.text


@pytest.mark.parametrize(
    ("security", "username"), [("none", None), ("ssl", None), ("starttls", "notifier")]
)
async def test_each_way_of_encryption_works(
    log: MemoryLog, folder: Path, workspace: Workspace, security: Any, username: str | None
) -> None:
    receiver = SmtpReceiver(workspace, security=security, username=username)
    receiver.start()
    try:
        channel = MailChannel(mail_settings(receiver, folder))
        async with notifying(log, folder, TO_ANN, [channel]):
            await record(log, vm_up("web01"))
            await eventually(lambda: len(receiver.mails) == 1, "the mail")
        assert receiver.mails[0].encrypted is (security != "none")
    finally:
        receiver.stop()


@pytest.mark.parametrize("change", ["certificate", "password", "name"])
async def test_a_server_that_cannot_be_trusted_gets_nothing_until_it_can(
    log: MemoryLog, folder: Path, smtp: SmtpReceiver, change: str
) -> None:
    settings = mail_settings(smtp, folder)
    if change == "certificate":
        settings = mail_settings(smtp, folder, ca_file=None)
    if change == "password":
        (folder / "mail.password").write_text("wrong")
    if change == "name":
        settings = mail_settings(smtp, folder, server="127.0.0.2")
    async with notifying(log, folder, TO_ANN, [MailChannel(settings)]) as notifier:
        await record(log, vm_up("web01"))
        await eventually(lambda: notifier.status.failures >= 2, "two failures")
    assert smtp.mails == []
    async with notifying(log, folder, TO_ANN, [MailChannel(mail_settings(smtp, folder))]):
        await eventually(lambda: len(smtp.mails) == 1, "the mail, once it is put right")


async def test_a_server_that_is_down_loses_nothing_and_keeps_the_order(
    log: MemoryLog, folder: Path, smtp: SmtpReceiver
) -> None:
    channel = MailChannel(mail_settings(smtp, folder))
    async with notifying(log, folder, TO_ANN, [channel]) as notifier:
        await record(log, vm_up("vm0"))
        await eventually(lambda: len(smtp.mails) == 1, "the first mail")
        smtp.stop()
        await record(log, *(vm_up(f"vm{number}") for number in range(1, 6)))
        await eventually(lambda: notifier.status.failures >= 2, "failures")
        await eventually(lambda: bool(notifier.status.queues), "the queue to show")
        assert notifier.status.queues[0].last_error
        smtp.refuse_next(2)
        smtp.start()
        await eventually(lambda: len(smtp.mails) == 6, "all mails")
    names = [mail.subject.split()[3] for mail in smtp.mails]
    assert names == [f"vm{number}" for number in range(6)]


async def test_a_mail_refused_for_good_is_set_aside_and_the_next_one_goes(
    log: MemoryLog, folder: Path, smtp: SmtpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notifier.process.SET_ASIDE_AFTER_S", 100.0)  # 2 s under the scale
    smtp.refuse_next(1000, "554 5.7.1 spam")
    channel = MailChannel(mail_settings(smtp, folder))
    async with notifying(log, folder, TO_ANN, [channel]) as notifier:
        await record(log, vm_up("vm0"))
        await eventually(lambda: notifier.status.set_aside == 1, "it to be set aside")
        smtp._refusals.clear()
        await record(log, vm_up("vm1"))
        await eventually(lambda: len(smtp.mails) == 1, "the next mail")
    assert "vm1" in smtp.mails[0].subject


async def test_one_receiver_that_is_down_holds_up_no_other(
    log: MemoryLog, folder: Path, smtp: SmtpReceiver, snmp: SnmpReceiver
) -> None:
    smtp.stop()
    mail = MailChannel(mail_settings(smtp, folder))
    channels: list[Channel] = [mail, traps(snmp, folder, inform=False)]
    async with notifying(log, folder, f"{TO_ANN} include:*(snmp:)", channels):
        await record(log, vm_down("web01"))
        await eventually(lambda: len(snmp.traps) == 1, "the trap")
    assert smtp.mails == []


async def test_a_trap_carries_the_mibs_objects(
    log: MemoryLog, folder: Path, snmp: SnmpReceiver
) -> None:
    channel = traps(snmp, folder, inform=False)
    async with notifying(log, folder, "include:*:ERROR(snmp:)", [channel]):
        await record(log, vm_up("wéb01"), vm_down("wéb01"))
        await eventually(lambda: len(snmp.traps) == 1, "the trap")
    (trap,) = snmp.traps
    assert trap.oid == ".1.3.6.1.4.1.2312.13.1.1.0.1"
    assert trap.variables[0].oid == ".1.3.6.1.2.1.1.3.0"
    assert trap.variables[0].type == "Timeticks"
    assert int(trap.variables[0].value) < 6_000
    values = {number: trap.value(f"{OBJECTS}.{number}") for number in (1, 2, 3, 4, 6, 102, 104)}
    assert values == {
        1: "2",
        2: "VM_DOWN_ERROR",
        3: "119",
        4: "2",
        6: "1",
        102: "wéb01",
        104: "node1",
    }


async def test_an_inform_is_repeated_until_the_manager_has_it(
    log: MemoryLog, folder: Path, snmp: SnmpReceiver
) -> None:
    snmp.stop()
    channel = traps(snmp, folder, inform=True)
    async with notifying(log, folder, "include:*(snmp:)", [channel]) as notifier:
        await record(log, vm_up("vm0"), vm_up("vm1"))
        await eventually(lambda: notifier.status.failures >= 1, "a failure")
        snmp.start()
        await eventually(lambda: notifier.status.told == 2, "both informs")
    assert [trap.value(f"{OBJECTS}.1") for trap in snmp.traps] == ["1", "2"]


async def test_without_a_channel_everything_goes_to_a_file(log: MemoryLog, folder: Path) -> None:
    async with notifying(log, folder, "exclude:*"):
        await record(log, HostAdded(name="node1", cluster="c1", data_center="d1"), vm_up("vm0"))
        await eventually(lambda: len(lines(folder)) == 2, "two lines")
    async with notifying(log, folder, "exclude:*"):
        await record(log, vm_down("vm0"))
        await eventually(lambda: len(lines(folder)) == 3, "a third line")
    assert [line["position"] for line in lines(folder)] == [1, 2, 3]


async def test_what_tells_nobody_anything_is_not_written_each_time(
    log: MemoryLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    take = Store.take

    def counted(store: Store, place: Place, news: Sequence[tuple[Address, Notification]]) -> None:
        writes.append(len(news))
        take(store, place, news)

    monkeypatch.setattr(Store, "take", counted)
    text, mail = "include:VM_DOWN_ERROR(smtp:ann@example.org)", MailSettings(server="localhost")
    async with notifying(log, folder, text, [MailChannel(mail)]) as notifier:
        await eventually(lambda: notifier.status.state == "following", "the notifier")
        for number in range(5):
            await record(log, vm_up(f"vm{number}"))
            await eventually(
                lambda: notifier.status.position == number + 1,  # noqa: B023 - waited for here
                "the events passed over",
            )
        assert writes == [0]  # its first place
        monkeypatch.setattr(process, "PASSED_OVER_MAX", 6)
        await record(log, vm_up("vm5"))
        await eventually(lambda: writes == [0, 0], "the place behind so many events")


async def test_the_first_start_begins_at_the_head_and_later_ones_where_they_were(
    log: MemoryLog, folder: Path
) -> None:
    await record(log, vm_up("old"))
    async with notifying(log, folder, "", start="head") as notifier:
        await eventually(lambda: notifier.status.state == "following", "the notifier")
    await record(log, vm_up("meanwhile"))
    async with notifying(log, folder, "", start="head"):
        await eventually(lambda: len(lines(folder)) == 1, "the line")
    assert lines(folder)[0]["vm_name"] == "meanwhile"


async def test_a_restored_log_tells_what_is_new_and_nothing_twice(folder: Path) -> None:
    before, restored = MemoryLog(), MemoryLog()
    await record(before, vm_up("a"))
    for stored in await before.read(0):  # the backup: as it was, under another log id
        restored._events.append(stored)
        restored._times.append(stored.time)
    await record(before, vm_up("lost"))
    async with notifying(before, folder, ""):
        await eventually(lambda: len(lines(folder)) == 2, "two lines")
    await record(restored, vm_up("new"))
    async with notifying(restored, folder, ""):
        await eventually(lambda: len(lines(folder)) == 3, "the new line")
        await record(restored, vm_up("newer"))
        await eventually(lambda: len(lines(folder)) == 4, "the next line")
    assert [line["vm_name"] for line in lines(folder)] == ["a", "lost", "new", "newer"]


async def test_it_halts_at_an_event_that_it_cannot_read(folder: Path) -> None:
    log = MemoryLog(codec=SAMPLE_CODEC)
    await record(log, vm_up("a"))
    await log.append(command({}, noted("vm/x")))
    await record(log, vm_up("b"))
    async with notifying(log, folder, "") as notifier:
        await eventually(lambda: notifier.status.state == "halted", "the halt")
        await eventually(lambda: len(lines(folder)) == 1, "what came before")
        assert notifier.status.position == 1


def start_child(settings: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    command = [sys.executable, str(CHILD), str(settings)]
    return subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment)


async def test_kills_at_any_instant_lose_nothing_and_keep_the_order(
    database: Database, folder: Path, smtp: SmtpReceiver, snmp: SnmpReceiver
) -> None:
    dice = random.Random(11)
    mail = mail_settings(smtp, folder)
    community = folder / "community"
    community.write_text(snmp.community)
    settings = {
        "dsn": database.url,
        "folder": str(folder),
        "filter": f"{TO_ANN} include:*(smtp:ben@example.org) include:*(snmp:)",
        "mail": {
            "server": mail.server,
            "port": mail.port,
            "encryption": mail.encryption,
            "user": mail.user,
            "password_file": str(mail.password_file),
            "ca_file": str(mail.ca_file),
        },
        "trap": {
            "managers": [f"{snmp.host}:{snmp.port}"],
            "community_file": str(community),
            "inform": True,
        },
    }
    file = folder / "settings.json"
    file.write_text(json.dumps(settings))
    total, kills = 0, 8
    async with PostgresLog.open(database.url) as log:
        child = start_child(file)
        try:
            for round_ in range(kills):
                for _ in range(dice.randrange(3, 8)):
                    await record(log, vm_up(f"vm{total}"))
                    total += 1
                    await asyncio.sleep(dice.random() * 0.1)
                if round_ == 3:
                    smtp.stop()
                if round_ == 5:
                    smtp.start()
                await asyncio.sleep(0.7 + dice.random())
                child.send_signal(signal.SIGKILL)
                child.wait(10)
                child = start_child(file)
            for who in (ANN, "ben@example.org"):
                await eventually(
                    lambda who=who: len(ids(smtp, who)) == total,  # type: ignore[misc]
                    f"all mails to {who}",
                    60.0,
                )
            await eventually(
                lambda: len({trap.value(f"{OBJECTS}.1") for trap in snmp.traps}) == total,
                "all informs",
            )
        finally:
            child.kill()
            child.wait(10)
    for who in (ANN, "ben@example.org"):
        assert positions(smtp, who) == list(range(1, total + 1))
        assert len([mail for mail in smtp.mails if mail.recipients == (who,)]) <= total + kills


def ids(smtp: SmtpReceiver, who: str) -> list[str]:
    """The Message-IDs of mails to an address, each once, in the order in which they came first."""
    found = [str(mail.message["Message-ID"]) for mail in smtp.mails if mail.recipients == (who,)]
    return list(dict.fromkeys(found))


def positions(smtp: SmtpReceiver, who: str) -> list[int]:
    return [int(each.lstrip("<").partition(".")[0]) for each in ids(smtp, who)]
