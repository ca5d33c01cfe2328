"""Guests that are pinned to CPUs, see NUMA nodes, or take huge pages, on real libvirt and QEMU."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from lxml import etree

from events.types.run_spec import RunSpec, Topology
from events.types.vm_tuning import (
    CpuPin,
    CpuPolicy,
    Dedicated,
    GuestNumaNode,
    NumaMode,
    Tuning,
    members,
)
from events.wire.agent import IntentVm, Role
from hostagent.cpu_keeper import CpuKeeper, CpuSetup, places_of
from hostagent.desk import Desk
from hostagent.driver import Happening, RefusedMessageError
from hostagent.journal import Journal
from hostagent.libvirt_xml import on_own_cpus
from hostagent.migration_rpc import check_domain
from hostagent.qemu_threads import QemuThreads
from hostagent.timings import Timings
from tests.contract.driver_contract import with_configuration
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import run_command
from tests.harness.workspace import Workspace
from tests.integration.libvirt_driver_rig import MIB, LibvirtRig, opened_rig, started_host
from tests.integration.test_libvirt_driver_runs import guest_shell

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
PAGES = 64
SPARE_PAGES = 256
"""Others of this machine may take some: a guest that lacks a single one does not start."""
PAGE_BYTES = 2 * MIB


@pytest.fixture(scope="module")
def huge_pages(workspace: Workspace) -> Iterator[int]:
    """How many pages of 2 MiB were set aside, with a mount that libvirt finds; 0 where none can."""
    mount = workspace.make_folder("hugepages")
    before = HUGE_PAGES.read_text()
    try:
        HUGE_PAGES.write_text(str(int(before) + PAGES + SPARE_PAGES))
        run_command(["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", str(mount)])
    except (OSError, RuntimeError):
        HUGE_PAGES.write_text(before)
        yield 0
        return
    yield int(HUGE_PAGES.read_text()) - int(before)
    run_command(["umount", str(mount)])
    HUGE_PAGES.write_text(before)


@pytest.fixture(scope="module")
def tuned_host(
    workspace: Workspace, host_network: HostNetwork, huge_pages: int
) -> Iterator[LibvirtHost]:
    del huge_pages  # libvirt looks for the mount when it starts
    with started_host(workspace, host_network, 43) as host:
        yield host


@pytest.fixture
async def rig(tuned_host: LibvirtHost, guest: Guest) -> AsyncIterator[LibvirtRig]:
    async with opened_rig(tuned_host, guest) as rig:
        yield rig


def tuned(rig: LibvirtRig, tuning: Tuning) -> RunSpec:
    """A guest with two virtual CPUs and 128 MiB."""
    spec = rig.spec(str(uuid.uuid4()))
    processors = Topology(sockets=1, cores=2)
    return with_configuration(spec, memory_bytes=128 * MIB, topology=processors, tuning=tuning)


def allowed_cpus(pid: int) -> dict[str, str]:
    """The CPUs that each thread of a virtual CPU may run on, by the thread's name."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        for line in (task / "status").read_text().splitlines():
            if name.startswith("CPU ") and line.startswith("Cpus_allowed_list:"):
                found[name] = line.split()[1]
    return found


async def test_virtual_cpus_are_pinned_and_the_guest_sees_numa_nodes(rig: LibvirtRig) -> None:
    # given
    last = (os.cpu_count() or 1) - 1
    tuning = Tuning(
        pins=(CpuPin(vcpu=1, cpus=str(last)),),
        numa_nodes=(
            GuestNumaNode(vcpus="0", memory_bytes=96 * MIB, host_nodes="0"),
            GuestNumaNode(
                vcpus="1", memory_bytes=32 * MIB, host_nodes="0", mode=NumaMode.INTERLEAVE
            ),
        ),
    )
    spec = tuned(rig, tuning)

    # when
    await rig.driver.start(spec)
    await rig.until(Happening.GUEST_AGENT, spec.vm)

    # then the threads of the virtual CPUs may run where they are to
    with rig.connection() as connection:
        domain = connection.lookupByUUIDString(spec.vm)
        _info, maps = domain.vcpus()
        root = etree.fromstring(domain.XMLDesc(0))
    assert [number for number, there in enumerate(maps[1]) if there] == [last]
    assert all(maps[0][: last + 1])
    assert [node.get("mode") for node in root.iterfind("numatune/memnode")] == [
        "strict",
        "interleave",
    ]
    (pid,) = rig.host.qemu_pids().values()
    assert str(last) in allowed_cpus(pid).values() or not allowed_cpus(pid)
    # and the guest sees both nodes, each with its CPU
    nodes = "/sys/devices/system/node"
    assert guest_shell(rig, spec.vm, f"cat {nodes}/online {nodes}/node*/cpulist") == "0-1\n0\n1"
    # and its live XML is what another host would take in; bound otherwise, it would not
    live = await rig.driver.sender.live_xml(spec.vm, spec.incarnation)
    check_domain(live, spec, str(rig.host.images))
    with pytest.raises(RefusedMessageError, match="NUMA"):
        check_domain(live, with_configuration(spec, tuning=Tuning()), str(rig.host.images))


def alone(rig: LibvirtRig, cpu: int) -> RunSpec:
    """A guest with one virtual CPU, which has a CPU of its own."""
    spec = rig.spec(str(uuid.uuid4()))
    own = Dedicated(pins=(CpuPin(vcpu=0, cpus=str(cpu)),), cpus=str(cpu))
    tuned_spec = with_configuration(spec, tuning=Tuning(cpu_policy=CpuPolicy.DEDICATED))
    return msgspec.structs.replace(tuned_spec, dedicated=own)


async def test_a_vm_has_a_cpu_to_itself(rig: LibvirtRig, tmp_path: Path) -> None:
    cpus = os.cpu_count() or 1
    if cpus < 2:
        pytest.skip("there is one CPU only")
    # given a guest that shares CPUs, and one that has the last CPU to itself
    last, rest = cpus - 1, f"0-{cpus - 2}" if cpus > 2 else "0"
    able = await rig.driver.capabilities()
    assert able.hardware is not None
    assert sorted(cpu for core in able.hardware.cores.split() for cpu in members(core)) == [
        *range(cpus)
    ]
    shares, own = rig.spec(str(uuid.uuid4())), alone(rig, last)
    for spec in (shares, own):
        await rig.driver.start(spec)
    for spec in (shares, own):
        await rig.until(Happening.GUEST_AGENT, spec.vm)

    # when an agent looks that is to have both here
    items = [
        IntentVm(vm=spec.vm, incarnation=1, role=Role.RUN, position=1, spec=spec)
        for spec in (shares, own)
    ]
    desk = Desk(rig.driver, Journal.open(tmp_path / "journal"), Timings(), "boot")
    threads = QemuThreads(rig.driver.processes)
    keeper = CpuKeeper(desk, CpuSetup(threads, Path("/"), tmp_path / "cpus"))
    keeper.look(places_of(items))

    # then no thread of the other may run there, and of its own only the virtual CPU does
    machines = threads.machines()
    assert machines.keys() == {shares.vm, own.vm}
    assert set(allowed_of_all(machines[shares.vm]).values()) == {rest}
    for name, allowed in allowed_of_all(machines[own.vm]).items():
        assert allowed == (str(last) if name.startswith("CPU ") else rest), name
    with rig.connection() as connection:
        _info, maps = connection.lookupByUUIDString(own.vm).vcpus()
    assert [number for number, there in enumerate(maps[0]) if there] == [last]
    # its live XML is what another host would take in, on another CPU of its own
    live = await rig.driver.sender.live_xml(own.vm, own.incarnation)
    check_domain(live, own, str(rig.host.images))
    there = Dedicated(pins=(CpuPin(vcpu=0, cpus="0"),), cpus="0")
    moved = msgspec.structs.replace(own, dedicated=there)
    with pytest.raises(RefusedMessageError, match="CPU pinning"):
        check_domain(live, moved, str(rig.host.images))
    check_domain(on_own_cpus(live, there), moved, str(rig.host.images))

    # when it is gone, then the other runs anywhere again
    await rig.driver.destroy(own.vm, 1)
    keeper.look(places_of(items[:1]))
    everywhere = f"0-{last}"
    assert set(allowed_of_all(machines[shares.vm]).values()) == {everywhere}


def allowed_of_all(pid: int) -> dict[str, str]:
    """The CPUs that each thread of a process may run on, by the thread's name and id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        for line in (task / "status").read_text().splitlines():
            if line.startswith("Cpus_allowed_list:"):
                found[f"{name} {task.name}"] = line.split()[1]
    return found


async def test_memory_is_taken_of_huge_pages(rig: LibvirtRig, huge_pages: int) -> None:
    if huge_pages < PAGES:
        pytest.skip("huge pages cannot be set aside here")
    # given
    able = await rig.driver.capabilities()
    assert able.hardware is not None
    aside = {pages.size_bytes: pages.count for pages in able.hardware.huge_pages}
    assert aside[PAGE_BYTES] >= PAGES
    before = _free()
    spec = tuned(rig, Tuning(huge_page_bytes=PAGE_BYTES))

    # when
    await rig.driver.start(spec)
    await rig.until(Happening.GUEST_AGENT, spec.vm)

    # then
    assert before - _free() >= 128 * MIB // PAGE_BYTES
    live = await rig.driver.sender.live_xml(spec.vm, spec.incarnation)
    check_domain(live, spec, str(rig.host.images))


def _free() -> int:
    """How many huge pages neither are used nor promised."""
    words = dict(
        line.split(":") for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    return int(words["HugePages_Free"]) - int(words["HugePages_Rsvd"])
