"""Through the product: idle hosts are turned off by their BMCs and on again, and HA has its room.

The hosts are simulated, their BMCs are ipmi_sim, and the proxies run the real fence_ipmilan.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import require
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.powered_host import PoweredHost
from tests.system.product import Json, Product

pytestmark = pytest.mark.timeout(300)
SCALE = 0.05
SETTINGS = """
time_scale = 0.05
[hosts]
silent_timeout_s = 300
[fencing]
kdump_port = 0
status_timeout_s = 800
off_timeout_s = 1_200
on_timeout_s = 1_200
"""
"""What a BMC may take is not scaled by how busy the tests' machine is."""
MIB = 1024**2
LOST, KEPT = "CLUSTER_ALERT_HA_RESERVATION", "CLUSTER_ALERT_HA_RESERVATION_DOWN"


@pytest.fixture
def product(workspace: Workspace) -> Iterator[Product]:
    require("ipmi")
    product = Product(workspace, "saving", SETTINGS, hosts=0)
    product.start()
    yield product
    product.stop()


@pytest.fixture
def hosts(product: Product, workspace: Workspace) -> Iterator[list[PoweredHost]]:
    """Three hosts that can be turned off."""
    made: list[PoweredHost] = []
    storage = workspace.make_folder("storage")
    try:
        for number in (1, 2, 3):
            host = PoweredHost(product, workspace, number, storage, SCALE)
            made.append(host)
            host.join()
        yield made
    finally:
        for host in made:
            host.stop()


def started(product: Product, name: str, **more: object) -> str:
    body = {"name": name, "cluster": product.cluster(), "memory_bytes": 64 * MIB, **more}
    vm = str(product.post("/v1/vms", body)["id"])
    assert product.finish(product.post(f"/v1/vms/{vm}/start"))["status"] == "succeeded"
    return vm


def place(product: Product, vm: str) -> str:
    return str(product.get(f"/v1/vms/{vm}")["host"]["name"])


def cluster(product: Product) -> Json:
    return product.get(f"/v1/clusters/{product.cluster()}")


def told(product: Product, name: str) -> list[str]:
    found = product.items("/v1/events", name=name, sort="position", limit="100")
    return [str(one["message"]) for one in found]


def save_power(product: Product, *, reserve: int = 0, on: bool = True) -> None:
    product.post(
        f"/v1/clusters/{product.cluster()}/scheduling",
        {
            "policy": "power_saving",
            "automatic_host_power_management": on,
            "hosts_in_reserve": reserve,
            "cpu_over_commit_duration_minutes": 1,
        },
    )


def test_idle_hosts_lose_their_power_and_get_it_back(
    product: Product, hosts: list[PoweredHost]
) -> None:
    vm = started(product, "web01")
    own = next(host for host in hosts if host.name == place(product, vm))
    idle = [host for host in hosts if host is not own]
    save_power(product)
    balancing = {"mode": "automatic", "interval_s": 20}
    product.post(f"/v1/clusters/{product.cluster()}/balancing", balancing)

    wait_until(
        lambda: [host.has_power() for host in idle] == [False, False],
        120,
        "the idle hosts to be off",
        detail=product.last_words,
    )
    assert [host.machine.on for host in idle] == [False, False]
    assert (own.has_power(), own.machine.on, own.status) == (True, True, "up")
    wait_until(lambda: len(cluster(product)["resting_hosts"]) == 2, 20, "the cluster to say so")
    for host in idle:
        shown = product.await_status(f"/v1/hosts/{host.id}", "down", timeout_s=20)
        assert shown["power"]["fenced_off"]
        assert shown["duty"] == "maintenance"
        assert "saves power" in shown["status_reason"]
    assert place(product, vm) == own.name
    assert product.get(f"/v1/vms/{vm}")["status"] == "up"

    save_power(product, reserve=1)
    wait_until(
        lambda: [host.status for host in idle].count("up") == 1,
        120,
        "one host in reserve",
        detail=product.last_words,
    )
    assert [host.has_power() for host in idle].count(True) == 1

    save_power(product, on=False)
    wait_until(
        lambda: [host.status for host in hosts] == ["up"] * 3,
        120,
        "all hosts to be back",
        detail=product.last_words,
    )
    assert all(host.has_power() and host.machine.on for host in hosts)
    assert cluster(product)["resting_hosts"] == []
    assert place(product, vm) == own.name
    assert all(host.bmc.turned_off == 1 for host in idle)
    assert own.bmc.turned_off == 0


def test_a_cluster_says_whether_its_highly_available_vms_would_fit_elsewhere(
    product: Product, hosts: list[PoweredHost]
) -> None:
    for host in hosts[2:]:
        product.finish(product.post(f"/v1/hosts/{host.id}/maintenance"))
    first, second = hosts[:2]
    memory = int(product.get(f"/v1/hosts/{first.id}")["capabilities"]["memory_bytes"])
    big = memory * 6 // 10 // MIB * MIB
    vm = started(product, "db01", memory_bytes=big, high_availability={"priority": 50})
    product.post(f"/v1/clusters/{product.cluster()}/resources", {"ha_reservation": True})
    other = second if place(product, vm) == first.name else first
    filler = started(product, "filler", memory_bytes=big)  # no room is left for db01 there
    assert place(product, filler) == other.name

    wait_until(lambda: told(product, LOST), 60, "the alert", detail=product.last_words)
    assert "db01" in told(product, LOST)[0]

    product.finish(product.post(f"/v1/vms/{filler}/stop"))
    wait_until(lambda: told(product, KEPT), 60, "the end of the alert", detail=product.last_words)

    # It is as was said: where its host loses its power for good, the other one takes it.
    lost = first if other is second else second
    lost.bmc.pull_plug()
    wait_until(
        lambda: (product.get(f"/v1/vms/{vm}")["host"] or {}).get("name") == other.name,
        90,
        "the VM to be on the other host",
        detail=product.last_words,
    )
    product.await_status(f"/v1/vms/{vm}", "up")
    wait_until(lambda: lost.machine.on, 60, "the host to be turned on again")
