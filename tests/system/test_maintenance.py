"""Hosts go into maintenance: their VMs leave, in the embedded product and on two real hosts."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import require
from tests.harness.guest import Guest
from tests.harness.network import HostNetwork
from tests.harness.processes import wait_until
from tests.harness.qemu_release import NEW, OLD, upgraded_qemu
from tests.harness.stamps import read_stamps
from tests.harness.workspace import Workspace
from tests.system.migration_rig import mend, open_pair, started
from tests.system.product import Json, Product, running
from tests.system.real_host import RealHost

pytestmark = pytest.mark.timeout(300)
MIB = 1024**2
Pair = tuple[RealHost, RealHost]
SETTINGS = """
time_scale = 0.2
[evacuation]
shutdown_timeout_s = 20
"""


@pytest.fixture(scope="module")
def product(workspace: Workspace) -> Iterator[Product]:
    yield from running(workspace, "rests", SETTINGS, hosts=3)


@pytest.fixture(scope="module")
def pair(workspace: Workspace, host_network: HostNetwork, guest: Guest) -> Iterator[Pair]:
    require("libvirt")
    yield from open_pair(workspace, host_network, guest)


def up(product: Product, name: str, **more: object) -> Json:
    """Return a VM that is up."""
    body = {"name": name, "cluster": product.cluster(), "memory_bytes": 256 * MIB, **more}
    created = product.post("/v1/vms", body)
    begun = product.post(f"/v1/vms/{created['id']}/start")
    assert product.finish(begun)["status"] == "succeeded"
    return product.await_status(f"/v1/vms/{created['id']}", "up")


def test_a_host_is_emptied_as_its_preview_said(product: Product) -> None:
    vms = [up(product, f"vm{n}") for n in range(9)]
    fixed = up(product, "fixed", migration={"mode": "none"})
    host = fixed["host"]["id"]
    there = [vm["id"] for vm in vms if vm["host"]["id"] == host]

    preview = product.http.post(f"/v1/hosts/{host}/maintenance/preview").json()
    fates = {one["vm"]: one["fate"] for one in preview["vms"]}
    assert fates == {fixed["id"]: "shuts_down", **dict.fromkeys(there, "moves")}
    assert {one["host"] for one in preview["vms"]} - {None, host}

    asked = product.post(f"/v1/hosts/{host}/maintenance", {"reason": "new fans"})
    operation = product.finish(asked)
    assert operation["status"] == "succeeded", operation
    resting = product.await_status(f"/v1/hosts/{host}", "maintenance")
    assert resting["maintenance"]["vms_total"] == len(there) + 1
    product.await_status(f"/v1/vms/{fixed['id']}", "down")
    for vm in vms:
        document = product.await_status(f"/v1/vms/{vm['id']}", "up")
        assert document["host"]["id"] != host

    product.post(f"/v1/hosts/{host}/activate")
    product.await_status(f"/v1/hosts/{host}", "up")
    for vm in vms:
        product.post(f"/v1/vms/{vm['id']}/stop", Prefer="wait=20")


def test_a_cluster_that_asks_for_more_says_which_hosts_lack_it(product: Product) -> None:
    cluster = product.cluster()
    refused = product.http.patch(f"/v1/clusters/{cluster}", json={"cpu_type": "EPYC"})
    assert refused.status_code == httpx.codes.CONFLICT
    assert refused.json()["hosts"].keys() == {"host-01", "host-02", "host-03"}

    changed = product.http.patch(f"/v1/clusters/{cluster}", json={"cpu_type": "Haswell"})
    assert changed.status_code == httpx.codes.OK, changed.text
    wait_until(
        lambda: product.get(f"/v1/clusters/{cluster}")["cpu_model"] == "Haswell", 10, "the change"
    )
    product.http.patch(f"/v1/clusters/{cluster}", json={"cpu_model": "qemu64"}).raise_for_status()


def test_a_real_host_says_what_it_is_made_of(pair: Pair) -> None:
    host = pair[0].product.get(f"/v1/hosts/{pair[0].id}")
    assert (host["status"], host["unfit"]) == ("up", [])
    able = host["capabilities"]
    assert able["virtualization"] == "emulation"
    hardware = able["hardware"]
    assert hardware["cpu_flags"]
    assert hardware["topology"]["sockets"] >= 1
    assert hardware["versions"].keys() == {"kernel", "libvirt", "qemu", "operating_system"}
    assert all(hardware["versions"].values())
    assert [nic["name"] for nic in hardware["nics"]] == able["bridges"]


def test_a_real_host_says_it_anew_when_asked(pair: Pair) -> None:
    product, host = pair[0].product, pair[0].id
    before = product.get(f"/v1/hosts/{host}")
    operation = product.finish(product.post(f"/v1/hosts/{host}/refresh"))
    assert operation["status"] == "succeeded", operation
    after = product.await_status(f"/v1/hosts/{host}", "up")
    assert after["session"] != before["session"]
    assert after["capabilities"]["hardware"] == before["capabilities"]["hardware"]


def test_a_real_host_whose_qemu_was_upgraded_says_what_it_can_do_now(pair: Pair) -> None:
    """given another QEMU, when the host is refreshed, then its agent, which runs on, tells of it"""
    product, host = pair[0].product, pair[0].id

    def refreshed() -> list[str]:
        operation = product.finish(product.post(f"/v1/hosts/{host}/refresh"))
        assert operation["status"] == "succeeded", operation
        return list(product.get(f"/v1/hosts/{host}")["capabilities"]["machine_types"])

    assert OLD in product.get(f"/v1/hosts/{host}")["capabilities"]["machine_types"]
    with upgraded_qemu(pair[0].machine):
        wait_until(lambda: NEW in refreshed(), 20, "the new machine type", interval_s=1.0)
        # Which is not the one that its cluster asks for.
        shown = product.await_status(f"/v1/hosts/{host}", "non_operational")
        assert OLD in shown["status_reason"]
    wait_until(lambda: OLD in refreshed(), 20, "the old machine type", interval_s=1.0)
    product.await_status(f"/v1/hosts/{host}", "up")


def test_real_hosts_that_can_only_emulate_are_fit_only_while_that_is_enough(pair: Pair) -> None:
    product = pair[0].product
    path = f"/v1/clusters/{product.cluster()}"
    refused = product.http.patch(path, json={"emulation": False})
    assert refused.status_code == httpx.codes.CONFLICT
    assert "KVM is not there" in refused.json()["hosts"]["kvm01"]


def test_a_running_vm_leaves_a_real_host_that_goes_into_maintenance(
    pair: Pair, guest: Guest
) -> None:
    moving = started(pair, guest, "rests")
    product, host = moving.product, moving.source.id

    preview = product.http.post(f"/v1/hosts/{host}/maintenance/preview").json()
    assert [(one["fate"], one["host"]) for one in preview["vms"]] == [
        ("moves", moving.destination.id)
    ]
    before = len(read_stamps(moving.disk))
    operation = product.finish(product.post(f"/v1/hosts/{host}/maintenance"))
    assert operation["status"] == "succeeded", operation

    product.await_status(f"/v1/hosts/{host}", "maintenance")
    moving.goes_on(moving.destination.name)
    assert len(read_stamps(moving.disk)) > before
    product.post(f"/v1/hosts/{host}/activate")
    product.await_status(f"/v1/hosts/{host}", "up")
    moving.finish()
    mend(pair)
