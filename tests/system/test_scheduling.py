"""Affinity groups, pinning and balancing on four simulated hosts of `chronovisor up`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.product import Json, Product, running

pytestmark = pytest.mark.timeout(180)
MIB = 1024**2


@pytest.fixture(scope="module")
def product(workspace: Workspace) -> Iterator[Product]:
    yield from running(workspace, "scheduling", "time_scale = 0.05\n", hosts=4)


@pytest.fixture(autouse=True)
def clean(product: Product) -> Iterator[None]:
    """Leave no VM and no group behind."""
    yield
    cluster = product.cluster()
    product.post(f"/v1/clusters/{cluster}/scheduling", {"policy": "none"})
    product.post(f"/v1/clusters/{cluster}/balancing", {"mode": "off", "interval_s": 60})
    for group in product.items("/v1/affinity_groups"):
        product.http.delete(f"/v1/affinity_groups/{group['id']}")
    for vm in product.items("/v1/vms"):
        removed(product, vm["id"])


def removed(product: Product, vm: str) -> None:
    """Power a VM off, and remove it."""
    if product.get(f"/v1/vms/{vm}")["status"] != "down":
        product.finish(product.post(f"/v1/vms/{vm}/stop"))
    answer = product.http.delete(f"/v1/vms/{vm}")
    assert answer.is_success, answer.text


def created(product: Product, name: str, **more: object) -> str:
    body = {"name": name, "cluster": product.cluster(), "memory_bytes": 64 * MIB, **more}
    return str(product.post("/v1/vms", body)["id"])


def started(product: Product, *vms: str) -> list[str]:
    """Start VMs at once; return the hosts that they are on, by name."""
    begun = [product.post(f"/v1/vms/{vm}/start") for vm in vms]
    for each in begun:
        assert product.finish(each)["status"] == "succeeded"
    return [places(product)[vm] for vm in vms]


def places(product: Product) -> dict[str, str]:
    """Return the names of the hosts where VMs run, by the VMs' ids."""
    vms = product.items("/v1/vms", fields="*")
    return {vm["id"]: vm["host"]["name"] for vm in vms if vm["host"]}


def hosts(product: Product) -> list[Json]:
    return sorted(product.items("/v1/hosts"), key=lambda host: str(host["name"]))


def grouped(product: Product, name: str, **said: object) -> str:
    body = {"name": name, "cluster": product.cluster(), **said}
    return str(product.post("/v1/affinity_groups", body)["id"])


def test_groups_are_kept_and_shown(product: Product) -> None:
    apart = [created(product, f"apart{n}") for n in range(4)]
    together = [created(product, f"together{n}") for n in range(3)]
    grouped(product, "apart", vm_rule="negative", vm_enforcing=True, vms=apart)
    grouped(product, "together", vm_rule="positive", vm_enforcing=True, vms=together)

    assert len(set(started(product, *apart))) == 4
    assert len(set(started(product, *together))) == 1

    (found,) = product.items("/v1/affinity_groups", search="together")
    assert [vm["name"] for vm in found["vms"]] == ["together0", "together1", "together2"]
    placed = product.post(f"/v1/vms/{apart[0]}/placement")
    reasons = {one["host_name"]: " ".join(one["reasons"]) for one in placed["hosts"]}
    others = [places(product)[vm] for vm in apart[1:]]
    assert all("affinity group apart keeps the two apart" in reasons[host] for host in others)

    moved = product.finish(product.post(f"/v1/vms/{apart[0]}/migrate"))
    assert moved["status"] == "failed"
    assert "affinity group apart keeps the two apart" in moved["reason"]


def test_a_pinned_vm_starts_on_its_host_and_leaves_a_group_when_it_is_removed(
    product: Product,
) -> None:
    vm = created(product, "pinned")
    where = hosts(product)[2]
    grouped(product, "members", vms=[vm])
    product.post(f"/v1/vms/{vm}/choose_hosts", {"hosts": [where["id"]], "pinned": True})
    assert started(product, vm) == [where["name"]]
    failed = product.finish(product.post(f"/v1/vms/{vm}/migrate"))
    assert "The VM is pinned to other hosts." in failed["reason"]
    removed(product, vm)
    wait_until(
        lambda: product.items("/v1/affinity_groups", name="members")[0]["vms"] == [],
        20,
        "the VM to be taken out of its group",
    )


def test_a_policy_of_ones_own_and_names_that_follow(product: Product) -> None:
    cluster = product.cluster()
    body = {"name": "dense", "like": "power_saving", "filters": ["CPU"], "hosts_in_reserve": 2}
    policy = str(product.post("/v1/scheduling_policies", body)["id"])
    product.post(
        f"/v1/clusters/{cluster}/scheduling",
        {"scheduling_policy": policy, "high_utilization_percent": 91},
    )
    shown = product.get(f"/v1/scheduling_policies/{policy}")
    assert (shown["balancer"], shown["filters"]) == ("power_saving", ["CPU"])
    assert shown["parameters"]["hosts_in_reserve"] == 2
    assert product.get(f"/v1/clusters/{cluster}")["scheduling"]["custom"] == policy
    refused = product.http.delete(f"/v1/scheduling_policies/{policy}")
    assert refused.status_code == 409, refused.text

    # The policy has no filter Memory: a VM that is larger than any host starts.
    vm = created(product, "before", memory_bytes=4 * 1024 * 1024 * MIB)
    placed = product.post(f"/v1/vms/{vm}/placement")
    assert placed["scheduling"]["high_utilization_percent"] == 91
    assert len(started(product, vm)) == 1
    product.http.patch(f"/v1/scheduling_policies/{policy}", json={"filters": ["Memory"]})
    moved = product.finish(product.post(f"/v1/vms/{vm}/migrate"))
    assert "MiB of memory free" in moved["reason"]

    grouped(product, "named", vms=[vm])
    assert product.http.patch(f"/v1/vms/{vm}", json={"name": "after"}).is_success
    wait_until(
        lambda: product.items("/v1/affinity_groups", name="named")[0]["vms"][0]["name"] == "after",
        20,
        "the group to call its VM by its new name",
    )
    product.post(f"/v1/clusters/{cluster}/scheduling", {"policy": "none"})
    assert product.http.delete(f"/v1/scheduling_policies/{policy}").is_success


def test_a_vm_that_no_host_has_the_cpus_for_is_refused_with_the_reason(product: Product) -> None:
    vm = created(product, "pinned-cpus")
    pins = {"cpu_pins": [{"vcpu": 0, "cpus": "63"}]}
    product.post(f"/v1/vms/{vm}/tuning", pins)
    wait_until(
        lambda: product.get(f"/v1/vms/{vm}")["tuning"]["pins"] == [{"vcpu": 0, "cpus": "63"}],
        20,
        "the VM to show its pins",
    )
    assert len(started(product, vm)) == 1
    product.post(f"/v1/vms/{vm}/tuning", {"cpu_pins": [{"vcpu": 0, "cpus": "63+64"}]})
    failed = product.finish(product.post(f"/v1/vms/{vm}/migrate"))
    assert failed["status"] == "succeeded"  # what it runs with is what counts until its next run
    product.finish(product.post(f"/v1/vms/{vm}/stop"))
    refused = product.finish(product.post(f"/v1/vms/{vm}/start"))
    assert "It has no CPU 64, which the VM is pinned to." in refused["reason"]


def test_a_cluster_in_maintenance_can_be_emptied_and_keeps_what_is_highly_available(
    product: Product,
) -> None:
    vm, other = created(product, "moves"), created(product, "waits")
    available = created(product, "available", high_availability={"enabled": True})
    started(product, vm)
    cluster = product.cluster()
    product.post(f"/v1/clusters/{cluster}/scheduling", {"policy": "cluster_maintenance"})

    refused = product.finish(product.post(f"/v1/vms/{other}/start"))
    assert refused["status"] == "failed"
    assert "only highly available VMs are started in it" in refused["reason"]
    started(product, available)
    placed = product.post(f"/v1/vms/{vm}/placement")
    assert placed["host"] is not None
    host = product.get(f"/v1/vms/{vm}")["host"]
    emptied = product.finish(product.post(f"/v1/hosts/{host['id']}/maintenance"))
    assert emptied["status"] == "succeeded", emptied
    assert places(product)[vm] != host["name"]
    product.post(f"/v1/hosts/{host['id']}/activate")
    product.await_status(f"/v1/hosts/{host['id']}", "up")


def _crowded(product: Product, count: int) -> list[str]:
    """Have VMs on one host, too many by the policy."""
    first = hosts(product)[0]
    vms = [created(product, f"crowd{n}") for n in range(count)]
    for vm in vms:
        product.post(f"/v1/vms/{vm}/choose_hosts", {"hosts": [first["id"]]})
    assert set(started(product, *vms)) == {first["name"]}
    for vm in vms:
        product.post(f"/v1/vms/{vm}/choose_hosts", {})
    policy = {"policy": "vm_evenly_distributed", "high_vm_count": 3, "migration_threshold": 2}
    product.post(f"/v1/clusters/{product.cluster()}/scheduling", policy)
    return vms


def test_a_plan_is_previewed_and_applied(product: Product) -> None:
    vms = _crowded(product, 8)
    cluster = product.cluster()
    before = places(product)
    plan = product.post(f"/v1/clusters/{cluster}/balance/preview")
    assert len(plan["moves"]) == 6
    assert places(product) == before

    moves = [{"vm": one["vm"], "host": one["destination"]} for one in plan["moves"]]
    ended = product.finish(product.post(f"/v1/clusters/{cluster}/balance", {"moves": moves}))
    assert ended["status"] == "succeeded", ended
    after = places(product)
    wanted = {one["vm"]: one["destination_name"] for one in plan["moves"]}
    assert {vm: after[vm] for vm in wanted} == wanted
    figures = {one["host_name"]: one["after"]["vms"] for one in plan["hosts"]}
    assert {host: list(after.values()).count(host) for host in figures} == figures
    assert len(vms) == len(after)
    assert product.post(f"/v1/clusters/{cluster}/balance/preview")["moves"] == []


def test_a_cluster_balances_itself_where_that_is_wanted(product: Product) -> None:
    vms = _crowded(product, 6)
    cluster = product.cluster()
    product.post(f"/v1/clusters/{cluster}/balancing", {"mode": "propose", "interval_s": 5})

    def proposal() -> Json | None:
        found: Json | None = product.get(f"/v1/clusters/{cluster}")["proposal"]
        return found

    wait_until(lambda: proposal() is not None, 40, "a proposal")
    assert len(set(places(product).values())) == 1
    product.post(f"/v1/clusters/{cluster}/balancing", {"mode": "automatic"})
    wait_until(lambda: len(set(places(product).values())) >= 3, 60, "the VMs to be spread")
    assert set(places(product)) == set(vms)
    assert proposal() is None
