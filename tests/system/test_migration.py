"""Running VMs move between two real hosts that share a folder, and no fault makes a second copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import require
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import free_port, wait_until
from tests.harness.stamps import assert_single_writer, read_stamps
from tests.harness.workspace import Workspace
from tests.system.product import Product
from tests.system.real_host import RealHost, vm_body

pytestmark = pytest.mark.timeout(300)
SETTINGS = """
time_scale = 0.2
[api]
host = "{address}"
[gateway]
host = "{address}"
port = {port}
"""
SLOW_MIB_PER_S = 8


@pytest.fixture
def pair(
    workspace: Workspace,
    host_network: HostNetwork,
    make_libvirt_host: Callable[[], LibvirtHost],
    guest: Guest,
) -> Iterator[tuple[RealHost, RealHost]]:
    """Two real hosts that take part in migrations and share their storage folder."""
    require("libvirt")
    address = host_network.address
    settings = SETTINGS.format(address=address, port=free_port())
    product = Product(workspace, "product", settings, hosts=0)
    product.start()
    shared = workspace.make_folder("shared")
    (shared / "storage-id").write_text("one-folder\n")
    hosts: list[RealHost] = []
    try:
        for name in ("kvm01", "kvm02"):
            host = RealHost(product, make_libvirt_host(), name)
            host.storage, host.migrates, host.time_scale = shared, True, 0.2
            if not hosts:
                host.stock(guest)
            host.enrol()
            host.start_agent()
            host.await_up()
            hosts.append(host)
        yield hosts[0], hosts[1]
    finally:
        product.stop()


def started(
    pair: tuple[RealHost, RealHost], guest: Guest, name: str = "web01"
) -> tuple[str, RealHost, RealHost]:
    """Return a VM with a disk that stamps, up on the first of the two hosts returned."""
    product = pair[0].product
    created = product.post("/v1/vms", vm_body(product, guest, name, "10.88.0.31", disk=True))
    assert product.finish(created)["status"] == "succeeded"
    vm = str(created["id"])
    begun = product.post(f"/v1/vms/{vm}/start", Prefer="wait=60")
    assert product.finish(begun)["status"] == "succeeded"
    where = product.await_status(f"/v1/vms/{vm}", "up")["host"]["name"]
    source, destination = sorted(pair, key=lambda host: host.name != where)
    return vm, source, destination


def slow_down(host: RealHost, vm: str) -> None:
    """Let a VM's memory be copied so slowly that there is time for a fault."""
    uri = ["virsh", "-q", "-c", host.machine.uri]
    host.machine.run([*uri, "migrate-setspeed", vm, str(SLOW_MIB_PER_S)])


def copies(vm: str, *hosts: RealHost) -> list[str]:
    """Return the names of the hosts on which a QEMU of the VM is."""
    return [host.name for host in hosts if vm in host.machine.qemu_pids()]


def test_a_running_vm_moves_there_and_back_and_goes_on_stamping(
    pair: tuple[RealHost, RealHost], guest: Guest
) -> None:
    product = pair[0].product
    vm, first, second = started(pair, guest)
    (disk,) = [path for path in first.storage.glob("*/*") if path.suffix == ".qcow2"]
    for source, destination in ((first, second), (second, first)):
        before = len(read_stamps(disk))
        asked = product.post(f"/v1/vms/{vm}/migrate", {"host": destination.id})
        operation = product.finish(asked)
        assert operation["status"] == "succeeded", operation
        document = product.await_status(f"/v1/vms/{vm}", "up")
        assert document["host"]["name"] == destination.name
        assert [host["name"] for host in document["may_run_on"]] == [destination.name]
        assert copies(vm, source, destination) == [destination.name]
        wait_until(lambda: len(read_stamps(disk)) > before + 5, 30, "new stamps")  # noqa: B023
    product.post(f"/v1/vms/{vm}/stop", Prefer="wait=30")
    product.await_status(f"/v1/vms/{vm}", "down")
    stamps = read_stamps(disk)
    assert_single_writer(stamps)
    assert len({stamp.boot for stamp in stamps}) == 1
    assert {stamp.incarnation for stamp in stamps} == {1}


@pytest.mark.parametrize("fault", ["cancel", "source agent", "destination agent"])
def test_what_goes_wrong_while_copying_leaves_the_vm_on_its_host(
    pair: tuple[RealHost, RealHost], guest: Guest, fault: str
) -> None:
    product = pair[0].product
    vm, source, destination = started(pair, guest)
    (disk,) = [path for path in source.storage.glob("*/*") if path.suffix == ".qcow2"]
    slow_down(source, vm)
    asked = product.post(f"/v1/vms/{vm}/migrate")
    wait_until(
        lambda: vm in destination.machine.qemu_pids(), 30, "the destination to take the VM in"
    )
    if fault == "cancel":
        product.post(f"/v1/operations/{asked['operation']['id']}/cancel")
    else:
        broken = source if fault == "source agent" else destination
        broken.agent.kill()
        broken.start_agent()
    operation = product.finish(asked)
    assert operation["status"] == ("cancelled" if fault == "cancel" else "failed"), operation
    assert product.await_status(f"/v1/vms/{vm}", "up")["host"]["name"] == source.name
    destination.await_gone(vm)
    wait_until(
        lambda: len(product.get(f"/v1/vms/{vm}")["may_run_on"]) == 1, 30, "one place that counts"
    )
    before = len(read_stamps(disk))
    wait_until(lambda: len(read_stamps(disk)) > before + 5, 30, "new stamps")
    product.post(f"/v1/vms/{vm}/stop", Prefer="wait=30")
    product.await_status(f"/v1/vms/{vm}", "down")
    stamps = read_stamps(disk)
    assert_single_writer(stamps)
    assert len({stamp.boot for stamp in stamps}) == 1
