"""What a maintenance would do, asked over the API."""

from __future__ import annotations

import msgspec

from events.types.host import (
    HostCapabilitiesReported,
    HostJoinRequested,
    HostSessionStarted,
)
from events.types.vm import VmPlaced, VmStarted, VmUp
from tests.unit.api.conftest import NOBODY, Asked, problem
from tests.unit.commands.samples import SPEC
from tests.unit.policies.stage import CAPABILITIES

GIB = 1024**3


async def _host(asked: Asked, cluster: str, name: str, memory_bytes: int) -> str:
    host = await asked.made("/v1/hosts", {"name": name, "cluster": cluster, "approved": True})
    abilities = msgspec.structs.replace(CAPABILITIES, memory_bytes=memory_bytes)
    await asked.append(
        f"host/{host}",
        HostJoinRequested(
            name=name, token="t", public_key_sha256="k", hardware=name, signing_request="r"
        ),
        HostSessionStarted(name=name, session="s", boot="b", protocol=1),
        HostCapabilitiesReported(capabilities=abilities),
    )
    return host


async def _up(asked: Asked, cluster: str, host: str, name: str, **more: object) -> str:
    fields = {"cluster": cluster, "memory_bytes": 4 * GIB, **more}
    vm = await asked.made("/v1/vms", {"name": name, **fields})
    configuration = msgspec.structs.replace(SPEC.configuration, memory_bytes=4 * GIB, disks=())
    spec = msgspec.structs.replace(
        SPEC,
        vm=vm,
        configuration=configuration,
        machine_type=CAPABILITIES.machine_types[0],
        cpu_model=CAPABILITIES.cpu_models[0],
    )
    await asked.append(
        f"vm/{vm}",
        VmPlaced(name=name, host=host, host_name="alpha", incarnation=1, spec=spec),
        VmStarted(name=name, host=host, host_name="alpha", incarnation=1),
        VmUp(name=name, host=host, host_name="alpha", incarnation=1),
    )
    return vm


async def test_it_says_of_each_vm_where_it_would_go_and_why_not(asked: Asked) -> None:
    """given room for one elsewhere, then the most urgent has it, and the others are told why not"""
    cluster = await asked.cluster()
    alpha = await _host(asked, cluster, "alpha", 16 * GIB)
    beta = await _host(asked, cluster, "beta", 6 * GIB)
    await _up(asked, cluster, alpha, "low")
    await _up(asked, cluster, alpha, "high", high_availability={"priority": 9})
    await _up(asked, cluster, alpha, "fixed", migration={"mode": "none"})
    await asked.catch_up()
    before = len(await asked.history())
    path = f"/v1/hosts/{alpha}/maintenance/preview"

    for _again in range(2):  # what was tried does not stay reserved
        answer = await asked.post(path)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        shown = {one["vm_name"]: (one["fate"], one["host_name"]) for one in found["vms"]}
        assert shown == {
            "high": ("moves", "beta"),
            "low": ("blocks", ""),
            "fixed": ("shuts_down", ""),
        }
        assert found["vms"][0]["host"] == beta
        assert found["fates"] == {"moves": 1, "blocks": 1, "shuts_down": 1}
        reasons = {one["vm_name"]: one["reason"] for one in found["vms"]}
        assert "beta: It has 1792 MiB of memory free, 4096 are needed." in reasons["low"]
        assert reasons["fixed"] == "It may not be migrated."
    assert len(await asked.history()) == before, "nothing is begun"

    waiting = (await asked.post(path, {"vms_that_stay": "wait"})).json()
    assert waiting["fates"] == {"moves": 1, "blocks": 2}


async def test_a_preview_is_refused_where_there_is_no_host_or_no_sense(asked: Asked) -> None:
    cluster = await asked.cluster()
    alpha = await _host(asked, cluster, "alpha", 16 * GIB)
    await asked.catch_up()
    problem(await asked.post(f"/v1/hosts/{NOBODY}/maintenance/preview"), 404, "not-found")
    path = f"/v1/hosts/{alpha}/maintenance/preview"
    problem(await asked.post(path, {"deadline_s": 4}), 422, "invalid-field")
    assert (await asked.post(path)).json()["vms"] == []


async def test_vms_that_belong_together_leave_together(asked: Asked) -> None:
    """given a group that keeps two VMs together, then the second goes where the first went"""
    cluster = await asked.cluster()
    alpha = await _host(asked, cluster, "alpha", 16 * GIB)
    for name in ("beta", "gamma"):
        await _host(asked, cluster, name, 16 * GIB)
    vms = [await _up(asked, cluster, alpha, name) for name in ("one", "two")]
    group = {"name": "pair", "cluster": cluster, "vm_rule": "positive", "vm_enforcing": True}
    await asked.made("/v1/affinity_groups", {**group, "vms": vms})
    await asked.catch_up()

    found = (await asked.post(f"/v1/hosts/{alpha}/maintenance/preview")).json()
    assert found["fates"] == {"moves": 2}
    assert len({one["host_name"] for one in found["vms"]}) == 1
