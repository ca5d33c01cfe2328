"""VMs move between the simulated hosts of `chronovisor up`, by the agents' own line."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from hostagent.control import say
from hostagent.simulated_state import Control, Do, Faults
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.product import Json, Product, running

pytestmark = pytest.mark.timeout(120)
MIB = 1024**2


@pytest.fixture(scope="module")
def product(workspace: Workspace) -> Iterator[Product]:
    yield from running(workspace, "moves", "time_scale = 0.2\n", hosts=2)


def started(product: Product, name: str) -> Json:
    """Return a VM with a disk that is up."""
    body = {
        "name": name,
        "cluster": product.cluster(),
        "memory_bytes": 256 * MIB,
        "disks": [{"size_bytes": 16 * MIB}],
    }
    created = product.post("/v1/vms", body)
    assert product.finish(created)["status"] == "succeeded"
    begun = product.post(f"/v1/vms/{created['id']}/start")
    assert product.finish(begun)["status"] == "succeeded"
    return product.await_status(f"/v1/vms/{created['id']}", "up")


def hosts_of(product: Product) -> dict[str, str]:
    """Return the names of the hosts by id."""
    return {host["id"]: host["name"] for host in product.items("/v1/hosts")}


def tell(product: Product, host: str, faults: Faults) -> None:
    """Set what is wrong with a simulated host, and wait until it knows."""
    control = product.root / "hosts" / "control"
    say(control, host, Control(do=Do.FAULTS, faults=faults))
    wait_until(lambda: not list(control.glob("*.json")), 5, "the fleet to read its control folder")
    time.sleep(0.2)


def test_a_vm_moves_there_and_back(product: Product) -> None:
    vm = started(product, "there-and-back")
    first = vm["host"]["id"]

    for _way in range(2):
        asked = product.post(f"/v1/vms/{vm['id']}/migrate")
        assert product.finish(asked)["status"] == "succeeded"
        document = product.await_status(f"/v1/vms/{vm['id']}", "up")
        assert document["host"]["id"] != vm["host"]["id"]
        assert [host["id"] for host in document["may_run_on"]] == [document["host"]["id"]]
        vm = document

    assert vm["host"]["id"] == first


def test_a_migration_is_cancelled_while_it_copies(product: Product) -> None:
    vm = started(product, "cancelled")
    name = hosts_of(product)[vm["host"]["id"]]
    tell(product, name, Faults(migration_s=20))
    asked = product.post(f"/v1/vms/{vm['id']}/migrate")
    product.await_status(f"/v1/vms/{vm['id']}", "migrating")

    product.post(f"/v1/operations/{asked['operation']['id']}/cancel")

    assert product.finish(asked)["status"] == "cancelled"
    assert product.await_status(f"/v1/vms/{vm['id']}", "up")["host"]["name"] == name
    tell(product, name, Faults())
