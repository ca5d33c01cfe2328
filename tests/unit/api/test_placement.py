"""Dry runs of the scheduler over the API."""

from __future__ import annotations

import msgspec

from commands.gateway.placement import Placement
from commands.gateway.view import GatewayView
from events.types.cluster import SchedulingPolicy
from events.types.host import (
    HostCapabilitiesReported,
    HostJoinRequested,
    HostSessionStarted,
)
from events.types.vm import VmPlaced
from tests.unit.api.conftest import NOBODY, Asked, problem
from tests.unit.commands.samples import SPEC as STORED
from tests.unit.policies.stage import CAPABILITIES
from tests.unit.policies.test_balance import cluster as cluster_with
from tests.unit.policies.test_balance import machine
from tests.unit.policies.test_fleet import host

GIB = 1024**3
SPEC = msgspec.structs.replace(
    STORED, configuration=msgspec.structs.replace(STORED.configuration, disks=())
)
"""A run without files, which may go on at any host."""


async def _host(asked: Asked, cluster: str, name: str, *, up: bool = True) -> str:
    body = {"name": name, "cluster": cluster, "approved": True}
    host = await asked.made("/v1/hosts", body)
    if up:
        await asked.append(
            f"host/{host}",
            HostJoinRequested(
                name=name, token="t", public_key_sha256="k", hardware=name, signing_request="r"
            ),
            HostSessionStarted(name=name, session="s", boot="b", protocol=1),
            HostCapabilitiesReported(capabilities=CAPABILITIES),
        )
    return host


async def test_a_dry_run_ranks_hosts_and_says_why_not(asked: Asked) -> None:
    cluster = await asked.cluster()
    busy = await _host(asked, cluster, "alpha")
    idle = await _host(asked, cluster, "beta")
    gone = await _host(asked, cluster, "gamma", up=False)
    fields = {"cluster": cluster, "memory_bytes": 4 * GIB}
    other = await asked.made("/v1/vms", {"name": "other", **fields})
    vm = await asked.made("/v1/vms", {"name": "web01", **fields})
    await asked.append(
        f"vm/{other}",
        VmPlaced(name="other", host=busy, host_name="alpha", incarnation=1, spec=SPEC),
    )
    await asked.catch_up()
    before = len(await asked.history())

    answer = await asked.post(f"/v1/vms/{vm}/placement")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["host"], found["host_name"]) == (idle, "beta")
    assert [one["host"] for one in found["hosts"]] == [idle, busy, gone]
    assert [one["rank"] for one in found["hosts"]] == [1, 2, None]
    assert found["hosts"][0]["weights"].keys() == {
        "CPU and NUMA pinning compatibility",
        "CPU for high performance VMs",
        "OptimalForCpuEvenDistribution",
        "OptimalForMemoryEvenDistribution",
        "OptimalForHaReservation",
        "PreferredHosts",
        "VmAffinityGroups",
        "VmToHostsAffinityGroups",
    }
    assert found["hosts"][2]["reasons"][0] == "The host is installing."
    assert found["hosts_total"] == 3
    assert answer.headers["chronovisor-position"] == str(before)
    assert len(await asked.history()) == before


async def test_a_dry_run_follows_what_happens(asked: Asked) -> None:
    cluster = await asked.cluster()
    first = await _host(asked, cluster, "alpha")
    vm = await asked.made("/v1/vms", {"name": "web01", "cluster": cluster})
    await asked.catch_up()
    path = f"/v1/vms/{vm}/placement"
    assert (await asked.post(path)).json()["host"] == first

    await asked.append(
        f"vm/{vm}", VmPlaced(name="web01", host=first, host_name="alpha", incarnation=1, spec=SPEC)
    )
    second = await _host(asked, cluster, "beta")
    await asked.catch_up()
    found = (await asked.post(path)).json()
    assert found["host"] == second
    assert found["hosts"][1]["reasons"] == ["The VM runs there."]

    scheduling = {"policy": "cluster_maintenance"}
    await asked.post(f"/v1/clusters/{cluster}/scheduling", scheduling)
    await asked.catch_up()
    found = (await asked.post(path)).json()
    assert found["host"] == second, "what runs may move"
    assert found["scheduling"]["policy"] == "cluster_maintenance"
    other = await asked.made("/v1/vms", {"name": "web02", "cluster": cluster})
    await asked.catch_up()
    found = (await asked.post(f"/v1/vms/{other}/placement")).json()
    assert found["host"] is None
    assert "only highly available VMs" in found["hosts"][0]["reasons"][0]


async def test_a_dry_run_of_a_vm_that_runs_asks_where_it_can_move(asked: Asked) -> None:
    """given a run with another machine type than its cluster's, then that is what counts"""
    cluster = await asked.cluster()
    first = await _host(asked, cluster, "alpha")
    second = await _host(asked, cluster, "beta")
    vm = await asked.made("/v1/vms", {"name": "web01", "cluster": cluster})
    spec = msgspec.structs.replace(SPEC, vm=vm, machine_type="pc-q35-99.0")
    await asked.append(
        f"vm/{vm}", VmPlaced(name="web01", host=first, host_name="alpha", incarnation=1, spec=spec)
    )
    await asked.catch_up()
    found = (await asked.post(f"/v1/vms/{vm}/placement")).json()
    assert found["host"] is None
    reasons = {one["host"]: one["reasons"] for one in found["hosts"]}
    assert reasons[second] == ["It does not know machine type pc-q35-99.0."]
    assert reasons[first][0] == "The VM runs there."


def test_a_dry_run_tells_of_each_host_of_a_large_cluster() -> None:
    view = GatewayView()
    view.hosts |= {f"h{n}": host(n, up=n % 2 == 0) for n in range(3_000)}
    view.vms["web01"] = machine("web01", None)
    cluster = cluster_with(SchedulingPolicy.NONE)
    found = Placement(view).dry_run("web01", cluster)
    assert (len(found.hosts), found.hosts_total) == (3_000, 3_000)
    assert sum(one.rank is not None for one in found.hosts) == 1_500
    assert all(one.reasons for one in found.hosts[1_500:])


async def test_who_asks_badly_is_refused(asked: Asked) -> None:
    vm = await asked.vm()
    path = f"/v1/vms/{vm}/placement"
    problem(await asked.post(path, authorization="Bearer none"), 401, "not-authenticated")
    await asked.catch_up()
    problem(await asked.post(f"/v1/vms/{NOBODY}/placement"), 404, "not-found")
    problem(await asked.post(path, {"host": "x"}), 400, "not-json")
    assert (await asked.post(path, {})).json()["hosts"] == []


async def test_a_dry_run_goes_by_a_policy_of_ones_own(asked: Asked) -> None:
    cluster = await asked.cluster()
    host = await _host(asked, cluster, "alpha")
    body = {
        "name": "mine",
        "filters": ["CPU"],
        "weights": [{"unit": "PreferredHosts", "factor": 3}],
    }
    policy = await asked.made("/v1/scheduling_policies", body)
    scheduled = {"scheduling_policy": policy}
    answer = await asked.post(f"/v1/clusters/{cluster}/scheduling", scheduled)
    assert answer.status_code == 200, answer.text
    # more memory than the host has, which this policy does not look at
    vm = await asked.made("/v1/vms", {"name": "w", "cluster": cluster, "memory_bytes": 64 * GIB})
    await asked.catch_up()
    found = (await asked.post(f"/v1/vms/{vm}/placement")).json()
    assert found["host"] == host
    assert found["hosts"][0]["weights"].keys() == {"PreferredHosts"}
    assert found["scheduling"]["custom"] == policy
    assert found["scheduling"]["filters"] == ["CPU"]
