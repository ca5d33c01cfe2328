"""What balancing would do, asked over the API; and dry runs that know affinity groups."""

from __future__ import annotations

from tests.unit.api.conftest import NOBODY, Asked, problem
from tests.unit.api.test_maintenance_preview import GIB, _host, _up


async def _crowded(asked: Asked) -> tuple[str, list[str]]:
    cluster = await asked.cluster()
    alpha = await _host(asked, cluster, "alpha", 32 * GIB)
    await _host(asked, cluster, "beta", 32 * GIB)
    vms = [await _up(asked, cluster, alpha, f"vm{number}") for number in range(4)]
    policy = {"policy": "vm_evenly_distributed", "high_vm_count": 2, "migration_threshold": 2}
    await asked.post(f"/v1/clusters/{cluster}/scheduling", policy)
    return cluster, vms


async def test_a_plan_is_shown_with_the_load_before_and_after(asked: Asked) -> None:
    cluster, vms = await _crowded(asked)
    await asked.catch_up()
    before = len(await asked.history())
    answer = await asked.post(f"/v1/clusters/{cluster}/balance/preview")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    shown = [(one["vm"], one["source_name"], one["destination_name"]) for one in found["moves"]]
    assert shown == [(vms[0], "alpha", "beta"), (vms[1], "alpha", "beta")]
    assert found["moves"][0]["reason"] == "Host alpha runs 4 VMs, 4 more than host beta."
    counts = {
        one["host_name"]: (one["before"]["vms"], one["after"]["vms"]) for one in found["hosts"]
    }
    assert counts == {"alpha": (4, 2), "beta": (0, 2)}
    assert len(await asked.history()) == before, "nothing is begun"


async def test_affinity_groups_count_in_previews_and_placements(asked: Asked) -> None:
    cluster, vms = await _crowded(asked)
    said = {"vm_rule": "positive", "vm_enforcing": True, "cluster": cluster, "vms": vms[:2]}
    group = await asked.made("/v1/affinity_groups", {"name": "pair", **said})
    await asked.catch_up()
    found = (await asked.post(f"/v1/clusters/{cluster}/balance/preview")).json()
    assert [one["vm"] for one in found["moves"]] == vms[2:]
    placed = (await asked.post(f"/v1/vms/{vms[0]}/placement")).json()
    reasons = {one["host_name"]: one["reasons"] for one in placed["hosts"]}
    assert reasons["beta"] == [
        "VM vm1, which affinity group pair keeps on one host with it, is elsewhere."
    ]
    assert (await asked.send("DELETE", f"/v1/affinity_groups/{group}")).is_success
    await asked.catch_up()
    placed = (await asked.post(f"/v1/vms/{vms[0]}/placement")).json()
    assert placed["host_name"] == "beta"


async def test_a_preview_is_refused_where_there_is_no_cluster_or_no_sense(asked: Asked) -> None:
    cluster = await asked.cluster()
    await asked.catch_up()
    problem(await asked.post(f"/v1/clusters/{NOBODY}/balance/preview"), 404, "not-found")
    path = f"/v1/clusters/{cluster}/balance/preview"
    problem(await asked.post(path, {"x": 1}), 400, "not-json")
