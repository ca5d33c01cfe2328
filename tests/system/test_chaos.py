"""Every process is killed, and frozen, in turn during a stream of commands: nothing comes of it."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable

import httpx
import psycopg
import pytest

from chronovisor.installation import Installation
from tests.harness.guest import Guest
from tests.harness.kafka import KafkaBroker
from tests.harness.processes import pause_tree, resume_tree, wait_until
from tests.harness.smtp import SmtpReceiver
from tests.harness.snmp import SnmpReceiver
from tests.harness.stamps import assert_single_writer, read_stamps
from tests.system.commander import Commander, Sent
from tests.system.product import Product
from tests.system.real_host import RealHost, vm_body

pytestmark = pytest.mark.timeout(900)
TIME_SCALE = 0.1
FROZEN_S = 5.0
APART_S = 2.0
EVENT = "USER_RUN_VM"
PARTS = ("engine", "policies", "projector", "relay", "dwh", "notifier", "fleet", "postgres")


def victims(
    product: Product, host: RealHost, kafka: KafkaBroker
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Return, for each process, how it is killed and how it is frozen for a while."""

    def freeze_tree(part: str) -> None:
        pid = product.pid(part)
        pause_tree(pid)
        time.sleep(FROZEN_S)
        resume_tree(pid)

    def restart_agent() -> None:
        host.agent.kill()
        host.start_agent()

    def restart_broker() -> None:
        kafka.kill()
        kafka.start()

    def freeze(pause: Callable[[], object], resume: Callable[[], object]) -> Callable[[], None]:
        def frozen() -> None:
            pause()
            time.sleep(FROZEN_S)
            resume()

        return frozen

    machine = host.machine
    found: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        part: (
            lambda part=part: product.kill(part),  # type: ignore[misc]
            lambda part=part: freeze_tree(part),  # type: ignore[misc]
        )
        for part in PARTS
    }

    def freeze_agent() -> None:
        host.agent.pause()
        time.sleep(FROZEN_S)
        host.agent.resume()

    found["agent"] = (restart_agent, freeze_agent)
    found["libvirtd"] = (
        machine.kill_libvirtd,
        freeze(machine.pause_libvirtd, machine.resume_libvirtd),
    )
    found["kafka"] = (restart_broker, freeze(kafka.pause, kafka.resume))
    return found


@pytest.mark.product(hosts=2, time_scale=TIME_SCALE, event=EVENT)
def test_killed_and_frozen_processes_lose_double_and_stop_nothing(
    real_product: Product,
    real_host: RealHost,
    guest: Guest,
    kafka: KafkaBroker,
    smtp: SmtpReceiver,
    snmp: SnmpReceiver,
) -> None:
    product, host = real_product, real_host
    real = start_real_vms(product, host, guest)
    pids = {vm: host.qemu(vm) for vm in real}
    simulated = [
        product.post("/v1/vms", {"name": f"sim{n}", "cluster": product.cluster()})["id"]
        for n in range(6)
    ]
    commander = Commander(product, simulated)
    commander.start()
    for kill, freeze in victims(product, host, kafka).values():
        time.sleep(APART_S)
        kill()
        time.sleep(APART_S)
        freeze()
    time.sleep(APART_S)
    sent = commander.finish()

    head = await_calm(product)
    assert len(sent) > 20, sent
    assert {vm: host.qemu(vm) for vm in real} == pids
    for vm in real:
        assert product.get(f"/v1/vms/{vm}")["status"] == "up"
        (disk,) = host.storage.glob(f"{vm}/*.qcow2")
        assert_single_writer(read_stamps(disk))
    check_log(product, sent, head)
    assert product.history(
        "select count(*), count(distinct position), min(position), max(position) from events"
    ) == [(head, head, 1, head)]
    check_notifications(product, smtp, snmp)


def start_real_vms(product: Product, host: RealHost, guest: Guest) -> list[str]:
    """Start two VMs on the real host, which stamp their disks."""
    vms = []
    for number in (1, 2):
        body = vm_body(product, guest, f"real{number}", f"10.88.0.3{number}", disk=True)
        created = product.post("/v1/vms", body | {"host": host.id})
        assert product.finish(created)["status"] == "succeeded"
        started = product.finish(product.post(f"/v1/vms/{created['id']}/start"))
        assert started["status"] == "succeeded", started
        vms.append(created["id"])
    return vms


def await_calm(product: Product) -> int:
    """Wait until every operation has ended and every part is at the log's head; return it."""
    said: dict[str, object] = {}

    def calm() -> bool:
        nonlocal said
        with contextlib.suppress(httpx.HTTPError, AssertionError):
            said = product.get("/v1/health")
            parts = said["parts"]
            assert isinstance(parts, list)
            followers = {part["part"]: part["position"] for part in parts}
            ended = {"succeeded", "failed", "cancelled"}
            operations = product.items("/v1/operations", limit="5000")
            return bool(
                said["ok"]
                and all(
                    followers[part] == said["head"]
                    for part in ("engine", "policies", "projector", "relay", "dwh", "notifier")
                )
                and all(operation["status"] in ended for operation in operations)
            )
        return False

    wait_until(
        calm, 120, what="everything to come to rest", detail=lambda: f"{said}{product.last_words()}"
    )
    head = said["head"]
    assert isinstance(head, int)
    return head


def check_log(product: Product, sent: list[Sent], head: int) -> None:
    """Positions have no gap, and every accepted command is in the log once."""
    installation = Installation.open(product.root)
    with psycopg.connect(installation.dsn()) as connection:
        count, last = connection.execute("select count(*), max(position) from log.log").fetchone()  # type: ignore[misc]
        assert (count, last) == (head, head)
        started = collections.Counter(
            stream
            for (stream,) in connection.execute(
                "select stream from log.log where name = 'operation.started'"
            )
        )
        placed = connection.execute(
            "select stream, version, convert_from(payload, 'utf8')::json->>'incarnation'"
            " from log.log where name = 'vm.placed'"
        ).fetchall()
    accepted = [one for one in sent if one.status == httpx.codes.ACCEPTED]
    for one in accepted:
        assert started[f"operation/{one.answer['operation']['id']}"] == 1
    incarnations = [(stream, incarnation) for stream, _version, incarnation in placed]
    assert len(incarnations) == len(set(incarnations)), "an incarnation was placed twice"


def check_notifications(product: Product, smtp: SmtpReceiver, snmp: SnmpReceiver) -> None:
    """Each audit record was told to both; a doubled mail is known by its Message-ID."""
    recorded = product.history(f"select position from audit where name = '{EVENT}'")
    positions = {str(position) for (position,) in recorded}
    wait_until(
        lambda: len({str(mail.message["Message-ID"]) for mail in smtp.mails}) >= len(positions),
        60,
        what=f"{len(positions)} mails",
        detail=product.last_words,
    )
    assert len({str(mail.message["Message-ID"]) for mail in smtp.mails}) == len(positions)
    instance = ".1.3.6.1.4.1.2312.13.1.1.2.1.1"
    wait_until(
        lambda: {trap.value(instance) for trap in snmp.traps} >= positions,
        60,
        what="all traps",
        detail=lambda: f"{len(snmp.traps)} of {len(positions)}",
    )
    assert {trap.value(instance) for trap in snmp.traps} == positions
