"""The whole path on real parts: from a command to a guest, its history, a mail and a trap."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import require
from tests.harness.guest import Guest
from tests.harness.kafka import KafkaBroker
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import wait_until
from tests.harness.smtp import SmtpReceiver
from tests.harness.snmp import SnmpReceiver
from tests.harness.workspace import Workspace
from tests.system.product import PROJECT, Json, Product
from tests.system.real_host import IMAGE, INITRD, KERNEL, RealHost

pytestmark = pytest.mark.timeout(400)
MIB = 1024**2
AUDIT_TRAP = ".1.3.6.1.4.1.2312.13.1.1.0.1"
OBJECTS = ".1.3.6.1.4.1.2312.13.1.1.2.1"
VM_DOWN_ERROR = "119"
ONCALL = "oncall@example.org"

SETTINGS = """
[api]
host = "{address}"
[gateway]
host = "{address}"
[hosts]
telemetry_interval_s = 2
[kafka]
bootstrap = "{kafka}"
projector = true
[notifier]
filter = "include:VM_DOWN_ERROR(smtp:{oncall}) include:VM_DOWN_ERROR(snmp:) exclude:*"
[notifier.smtp]
server = "{smtp_host}"
port = {smtp_port}
encryption = "starttls"
user = "{smtp_user}"
password_file = "{password_file}"
ca_file = "{smtp_ca}"
sender = "chronovisor@example.org"
[notifier.snmp]
managers = ["{snmp}"]
community_file = "{community_file}"
"""


@pytest.fixture
def product(
    workspace: Workspace,
    host_network: HostNetwork,
    kafka: KafkaBroker,
    smtp: SmtpReceiver,
    snmp: SnmpReceiver,
) -> Iterator[Product]:
    """Chronovisor on a real broker, with a real mail server and SNMP manager to tell."""
    require("libvirt")
    require("kafka")
    require("snmptrapd")
    secrets = workspace.make_folder("secrets")
    (secrets / "smtp").write_text(smtp.password or "")
    (secrets / "community").write_text(snmp.community)
    product = Product(
        workspace,
        "product",
        SETTINGS.format(
            address=host_network.address,
            kafka=kafka.bootstrap,
            oncall=ONCALL,
            smtp_host=smtp.host,
            smtp_port=smtp.port,
            smtp_user=smtp.username,
            password_file=secrets / "smtp",
            smtp_ca=smtp.certificate,
            snmp=f"{snmp.host}:{snmp.port}",
            community_file=secrets / "community",
        ),
        hosts=0,
    )
    product.start()
    try:
        yield product
    finally:
        product.stop()


@pytest.fixture
def host(product: Product, libvirt_host: LibvirtHost, guest: Guest) -> RealHost:
    """A real libvirt host that joined by token and was approved."""
    host = RealHost(product, libvirt_host, "kvm01")
    host.stock(guest)
    host.enrol()
    host.start_agent()
    host.await_up()
    return host


def vm_body(product: Product, guest: Guest, name: str, address: str, *, disk: bool) -> Json:
    """Return the body that creates a VM with the tests' guest."""
    body: Json = {
        "name": name,
        "cluster": product.cluster(),
        "memory_bytes": 128 * MIB,
        "nics": [{"bridge": "br0"}],
        "boot": {
            "kernel": KERNEL,
            "initrd": INITRD,
            "command_line": guest.command_line(name, ip4=f"{address}/24", stamp=disk),
        },
    }
    if disk:
        body["disks"] = [{"size_bytes": 256 * MIB, "image": IMAGE}]
    return body


def test_a_command_reaches_guest_inventory_warehouse_mailbox_and_snmp_manager(
    product: Product, host: RealHost, guest: Guest, smtp: SmtpReceiver, snmp: SnmpReceiver
) -> None:
    created = product.post("/v1/vms", vm_body(product, guest, "web01", "10.88.0.21", disk=True))
    assert product.finish(created)["status"] == "succeeded"
    web01 = created["id"]
    started = product.post(f"/v1/vms/{web01}/start", Prefer="wait=60")
    assert product.finish(started)["status"] == "succeeded"

    document = product.await_status(f"/v1/vms/{web01}", "up")
    assert host.qemu(web01) > 0
    wait_until(
        lambda: "10.88.0.21" in product.get(f"/v1/vms/{web01}")["addresses"],
        timeout_s=60,
        what="the guest's address in the inventory",
    )
    assert document["host"]["name"] == "kvm01"

    def samples() -> int:
        answer = subprocess.run(
            [
                *(sys.executable, "-m", "chronovisor.cli.main", "history", "-o", "json"),
                *("--dir", str(product.root)),
                f"select count(*) as n from vm_samples where vm = '{web01}'",  # noqa: S608
            ],
            capture_output=True,
            text=True,
            cwd=PROJECT,
            check=False,
            timeout=30,
        )
        return answer.stdout.count('"n"') and int(
            "".join(c for c in answer.stdout.split('"n"')[1] if c.isdigit())
        )

    wait_until(lambda: samples() > 0, timeout_s=60, what="samples of the VM in the warehouse")

    host.machine.kill_qemu(web01)
    down = product.await_status(f"/v1/vms/{web01}", "down", timeout_s=20)
    assert "crashed" in str(down)
    (mail,) = smtp.wait_for(1, timeout_s=30)
    assert "web01" in mail.subject
    assert ONCALL in mail.recipients
    (trap,) = snmp.wait_for(1, timeout_s=30)
    assert trap.oid == AUDIT_TRAP
    assert trap.value(f"{OBJECTS}.2") == "VM_DOWN_ERROR"
    assert trap.value(f"{OBJECTS}.3") == VM_DOWN_ERROR
    assert "web01" in trap.value(f"{OBJECTS}.5")

    second = product.post("/v1/vms", vm_body(product, guest, "web02", "10.88.0.22", disk=False))
    web02 = second["id"]
    assert product.finish(product.post(f"/v1/vms/{web02}/start"))["status"] == "succeeded"
    shutdown = product.post(f"/v1/vms/{web02}/shutdown")
    assert product.finish(shutdown)["status"] == "succeeded"
    assert product.await_status(f"/v1/vms/{web02}", "down")
    host.await_gone(web02)

    for vm in (web01, web02):
        response = product.http.delete(f"/v1/vms/{vm}")
        assert response.is_success, response.text
        if response.status_code == 202:  # noqa: PLR2004
            assert product.finish(response.json())["status"] == "succeeded"
        wait_until(
            lambda vm=vm: product.http.get(f"/v1/vms/{vm}").status_code == 404,  # type: ignore[misc]  # noqa: PLR2004
            timeout_s=20,
            what="the VM to be gone from the inventory",
        )
    assert list(host.storage.glob("*/*.qcow2")) == []
    assert len(smtp.mails) == 1
    assert len(snmp.traps) == 1
