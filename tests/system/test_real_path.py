"""The whole path on real parts: from a command to a guest, its history, a mail and a trap."""

from __future__ import annotations

import httpx
import pytest

from tests.harness.guest import Guest
from tests.harness.processes import wait_until
from tests.harness.smtp import SmtpReceiver
from tests.harness.snmp import SnmpReceiver
from tests.system.product import Product
from tests.system.real_host import RealHost, vm_body
from tests.system.stage import ONCALL

pytestmark = pytest.mark.timeout(400)
AUDIT_TRAP = ".1.3.6.1.4.1.2312.13.1.1.0.1"
OBJECTS = ".1.3.6.1.4.1.2312.13.1.1.2.1"
VM_DOWN_ERROR = "119"


def test_a_command_reaches_guest_inventory_warehouse_mailbox_and_snmp_manager(
    real_product: Product,
    real_host: RealHost,
    guest: Guest,
    smtp: SmtpReceiver,
    snmp: SnmpReceiver,
) -> None:
    product, host = real_product, real_host
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

    count = f"select count(*) from vm_samples where vm = '{web01}'"
    wait_until(
        lambda: product.history(count)[0][0] > 0,
        timeout_s=60,
        what="samples of the VM in the warehouse",
    )

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
        if response.status_code == httpx.codes.ACCEPTED:
            assert product.finish(response.json())["status"] == "succeeded"
        wait_until(
            lambda vm=vm: (
                product.http.get(f"/v1/vms/{vm}").status_code  # type: ignore[misc]
                == httpx.codes.NOT_FOUND
            ),
            timeout_s=20,
            what="the VM to be gone from the inventory",
        )
    assert list(host.storage.glob("*/*.qcow2")) == []
    assert len(smtp.mails) == 1
    assert len(snmp.traps) == 1
