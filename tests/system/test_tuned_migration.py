"""A VM that is pinned to CPUs and sees NUMA nodes moves between two real hosts, and stays so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from tests.conftest import require
from tests.harness.guest import Guest
from tests.harness.network import HostNetwork
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.migration_rig import MIB, open_pair, started
from tests.system.real_host import RealHost

pytestmark = pytest.mark.timeout(300)
Pair = tuple[RealHost, RealHost]


@pytest.fixture(scope="module")
def pair(workspace: Workspace, host_network: HostNetwork, guest: Guest) -> Iterator[Pair]:
    require("libvirt")
    yield from open_pair(workspace, host_network, guest)


def pins(host: RealHost, vm: str) -> list[str]:
    """Where a host's libvirt says that the VM's virtual CPUs may run."""
    machine = host.machine
    shown = machine.run(["virsh", "-q", "-c", machine.uri, "vcpupin", vm]).stdout
    return [line.split()[-1] for line in shown.splitlines() if line.strip()]


def own_password(host: RealHost, vm: str) -> str:
    """The password of the VM's console, as a host's libvirt has it."""
    machine = host.machine
    words = ["virsh", "-q", "-c", machine.uri, "dumpxml", "--security-info", vm]
    graphics = etree.fromstring(machine.run(words).stdout).find("devices/graphics")
    assert graphics is not None
    return str(graphics.get("passwd", ""))


def threads(host: RealHost, vm: str) -> dict[str, str]:
    """Where the threads of the VM's QEMU may run, by their names and ids."""
    found = {}
    for task in Path(f"/proc/{host.machine.qemu_pids()[vm]}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("Cpus_allowed_list:"):
                found[f"{(task / 'comm').read_text().strip()} {task.name}"] = line.split()[1]
    return found


def keeps_apart(host: RealHost, vm: str, own: str, rest: str) -> bool:
    """Whether the virtual CPU runs where it is alone, and everything else elsewhere."""
    found = threads(host, vm)
    return all(cpus == (own if name.startswith("CPU ") else rest) for name, cpus in found.items())


def test_a_vm_with_a_cpu_of_its_own_has_one_where_it_comes_to(pair: Pair, guest: Guest) -> None:
    last = (os.cpu_count() or 1) - 1
    if last < 1:
        pytest.skip("there is one CPU only")
    rest = f"0,2-{last}" if last > 2 else "0,2" if last == 2 else "0"
    moving = started(pair, guest, "own", tuning={"cpu_policy": "dedicated"})
    assert pins(moving.source, moving.vm) == ["1"]
    password = own_password(moving.source, moving.vm)
    assert len(password) == 8
    wait_until(lambda: keeps_apart(moving.source, moving.vm, "1", rest), 20, "all to keep apart")
    asked = moving.product.post(f"/v1/vms/{moving.vm}/migrate", {"host": moving.destination.id})
    operation = moving.product.finish(asked)
    assert operation["status"] == "succeeded", operation
    moving.goes_on(moving.destination.name)
    assert pins(moving.destination, moving.vm) == ["1"]
    # what it is there was told to libvirt together with its secrets
    assert own_password(moving.destination, moving.vm) == password
    wait_until(
        lambda: keeps_apart(moving.destination, moving.vm, "1", rest), 20, "all to keep apart"
    )
    shown = moving.document()
    assert shown["dedicated"]["cpus"] == "1"
    moving.finish()


def test_a_pinned_vm_with_numa_nodes_moves_and_stays_pinned(pair: Pair, guest: Guest) -> None:
    last = (os.cpu_count() or 1) - 1
    everywhere = f"0-{last}" if last else "0"
    moving = started(
        pair,
        guest,
        "tuned",
        cpu={"cores": 2},
        tuning={
            "cpu_pins": [{"vcpu": 1, "cpus": str(last)}],
            "numa_nodes": [
                {"vcpus": "0", "memory_bytes": 96 * MIB, "host_nodes": "0"},
                {"vcpus": "1", "memory_bytes": 32 * MIB},
            ],
        },
    )
    assert pins(moving.source, moving.vm) == [everywhere, str(last)]
    asked = moving.product.post(f"/v1/vms/{moving.vm}/migrate", {"host": moving.destination.id})
    operation = moving.product.finish(asked)
    assert operation["status"] == "succeeded", operation
    moving.goes_on(moving.destination.name)
    assert pins(moving.destination, moving.vm) == [everywhere, str(last)]

    # The next run is to have more CPUs than there are: no host is left for it, and it says why.
    there = os.cpu_count() or 1
    wanted = {"cpu_pins": [{"vcpu": 0, "cpus": str(there)}]}
    moving.product.post(f"/v1/vms/{moving.vm}/tuning", wanted)
    moving.finish()
    begun = moving.product.post(f"/v1/vms/{moving.vm}/start")
    refused = moving.product.finish(begun)
    assert f"It has no CPU {there}, which the VM is pinned to." in refused["reason"]
