"""Hosts of `chronovisor up` are measured, and placements and balancing go by it.

The hosts are simulated, with 64 CPUs each; a VM is told to take all of its own. Reckoned, one with
60 virtual CPUs takes 9 % of its host.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from hostagent.control import say
from hostagent.simulated_state import Control, Do
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.product import Json, Product, running

pytestmark = pytest.mark.timeout(180)
SCALE = 0.05
MINUTE_S = 60 * SCALE
MIB = 1024**2


@pytest.fixture
def product(workspace: Workspace) -> Iterator[Product]:
    yield from running(workspace, "busy", f"time_scale = {SCALE}\n", hosts=2)


def created(product: Product, name: str, cpus: int = 1) -> str:
    body = {"name": name, "cluster": product.cluster(), "memory_bytes": 64 * MIB}
    return str(product.post("/v1/vms", body | {"cpu": {"sockets": cpus}})["id"])


def started(product: Product, name: str, cpus: int = 1, *, on: Json | None = None) -> str:
    """Return a VM that is up, on a host if one is named; it is free to leave it."""
    vm = created(product, name, cpus)
    if on is not None:
        chosen = {"hosts": [on["id"]], "pinned": True}
        product.post(f"/v1/vms/{vm}/choose_hosts", chosen)
    assert product.finish(product.post(f"/v1/vms/{vm}/start"))["status"] == "succeeded"
    if on is not None:
        product.post(f"/v1/vms/{vm}/choose_hosts", {"hosts": []})
    return vm


def place(product: Product, vm: str) -> str:
    return str(product.get(f"/v1/vms/{vm}")["host"]["name"])


def hosts(product: Product) -> list[Json]:
    return sorted(product.items("/v1/hosts"), key=lambda host: str(host["name"]))


def keep_busy(product: Product, host: Json, vm: str) -> None:
    say(product.root / "hosts" / "control", host["name"], Control(do=Do.BUSY, vm=vm))


def schedule(product: Product, policy: str = "none") -> None:
    body = {"policy": policy, "cpu_over_commit_duration_minutes": 2}
    product.post(f"/v1/clusters/{product.cluster()}/scheduling", body)


def verdict(product: Product, vm: str, host: Json) -> str:
    """Return why a host would not get a VM; "" where it might."""
    placed = product.post(f"/v1/vms/{vm}/placement")
    (found,) = (one for one in placed["hosts"] if one["host"] == host["id"])
    return " ".join(found["reasons"])


def test_a_host_that_is_busy_gets_no_more_vms_until_it_is_idle(product: Product) -> None:
    schedule(product)
    first, second = hosts(product)
    large, small = started(product, "large", 60, on=first), created(product, "small")
    assert verdict(product, small, first) == ""

    keep_busy(product, first, large)
    wait_until(
        lambda: verdict(product, small, first),
        20 * MINUTE_S,
        "the dry run to tell that the host is busy",
        detail=product.last_words,
    )
    # 60 of 64 CPUs, and 1 % of its own
    wait_until(
        lambda: (
            verdict(product, small, first)
            == "Its CPUs were busy to more than 80 % for 2 minutes (94 % in the last one);"
            " it gets no more VMs."
        ),
        10 * MINUTE_S,
        "a minute in which it was busy from the start",
    )
    assert {place(product, started(product, f"web{n}")) for n in range(3)} == {second["name"]}

    product.post(f"/v1/vms/{small}/choose_hosts", {"hosts": [first["id"]], "pinned": True})
    refused = product.finish(product.post(f"/v1/vms/{small}/start"))
    assert refused["status"] == "failed"
    assert "Its CPUs were busy to more than 80 % for 2 minutes" in refused["reason"]

    product.finish(product.post(f"/v1/vms/{large}/stop"))
    wait_until(
        lambda: verdict(product, small, first) == "",
        20 * MINUTE_S,
        "the dry run to tell that the host is not busy any more",
        detail=lambda: verdict(product, small, first),
    )
    wait_until(
        lambda: product.finish(product.post(f"/v1/vms/{small}/start"))["status"] == "succeeded",
        10 * MINUTE_S,
        "the VM to start there",
    )
    assert place(product, small) == first["name"]


def test_balancing_moves_a_busy_vm_once_and_not_back(product: Product) -> None:
    cluster, (first, second) = product.cluster(), hosts(product)
    vms = [started(product, name, 28, on=first) for name in ("one", "two")]
    for vm in vms:
        keep_busy(product, first, vm)
    schedule(product, "evenly_distributed")

    def plan() -> Json:
        return product.post(f"/v1/clusters/{cluster}/balance/preview")

    wait_until(lambda: plan()["moves"], 20 * MINUTE_S, "a plan", detail=product.last_words)
    wait_until(
        lambda: [host["before"]["cpu_percent"] for host in plan()["hosts"]][:1] == [88],
        10 * MINUTE_S,
        "a minute in which the host was busy from the start",
    )
    found = plan()
    (move,) = found["moves"]
    assert (move["source_name"], move["destination_name"]) == (first["name"], second["name"])
    assert move["reason"] == (
        f"Host {first['name']} is over-used: its CPUs are busy to 88 %, above 80 %."
    )
    figures = [
        (host["before"]["cpu_percent"], host["after"]["cpu_percent"]) for host in found["hosts"]
    ]
    assert figures == [(88, 44), (1, 45)]
    assert all(host["before"]["measured"] for host in found["hosts"])

    balancing = {"mode": "automatic", "interval_s": 20}
    product.post(f"/v1/clusters/{cluster}/balancing", balancing)
    both = {first["name"], second["name"]}
    wait_until(lambda: {place(product, vm) for vm in vms} == both, 60, "one of the VMs to be moved")
    where = [place(product, vm) for vm in vms]
    time.sleep(8 * MINUTE_S)  # time enough to be measured, found over-used, and moved again
    assert [place(product, vm) for vm in vms] == where
    assert len(product.items("/v1/events", name="VM_MIGRATION_START", limit="100")) == 1
    assert plan()["moves"] == []
