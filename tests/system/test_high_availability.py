"""On two real hosts: what fails is started again, in order, once; what was stopped stays down."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import HarnessError, wait_until
from tests.harness.stamps import assert_single_writer, read_stamps
from tests.harness.workspace import Workspace
from tests.system.pair import Pair, two_hosts
from tests.system.product import Json

pytestmark = pytest.mark.timeout(400)
TIME_SCALE = 0.1
AVAILABLE: Json = {"high_availability": {"priority": 50}}


class Lookout:
    """Looks at both process tables all the time: no VM may have two copies, not for an instant."""

    def __init__(self, pair: Pair) -> None:
        self.twice: list[set[str]] = []
        self.looks = 0
        self._pair = pair
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            running = []
            for host in self._pair.hosts:
                try:
                    running.append(set(host.machine.qemu_pids()))
                except HarnessError:  # it is off
                    running.append(set())
            self.looks += 1
            if running[0] & running[1]:
                self.twice.append(running[0] & running[1])

    def end(self) -> None:
        self._over.set()
        self._thread.join(10)
        assert self.looks > 10
        assert self.twice == []


@pytest.fixture
def pair(
    workspace: Workspace,
    host_network: HostNetwork,
    make_libvirt_host: Callable[[], LibvirtHost],
    guest: Guest,
) -> Iterator[Pair]:
    require("libvirt")
    with two_hosts(
        workspace, host_network, make_libvirt_host, guest, time_scale=TIME_SCALE
    ) as made:
        lookout = Lookout(made)
        yield made
        lookout.end()


def written(disks: list[Path]) -> set[int]:
    """Return of which runs there are stamps on all of the disks."""
    runs = [{stamp.incarnation for stamp in read_stamps(disk)} for disk in disks]
    return set.intersection(*runs)


def restarted(pair: Pair, vm: str, incarnation: int) -> Json:
    """Wait until a VM is up in a certain run."""

    def is_up() -> Json:
        document = pair.product.get(f"/v1/vms/{vm}")
        there = document["status"] == "up" and document["incarnation"] == incarnation
        return document if there else {}

    return wait_until(is_up, 120, f"run {incarnation}", detail=pair.product.last_words)


def test_a_vm_whose_qemu_dies_runs_again_ever_later(pair: Pair) -> None:
    vm = pair.make("web01", disk=True, **AVAILABLE)
    pair.start(vm)
    for incarnation in (1, 2, 3):
        document = restarted(pair, vm, incarnation)
        (host,) = [host for host in pair.hosts if host.id == document["host"]["id"]]
        host.machine.kill_qemu(vm)
        after = restarted(pair, vm, incarnation + 1)
        restart = after["restart"]
        assert (restart["cause"], restart["reason"]) == ("high_availability", "crashed")
        assert restart["attempt"] == incarnation
        waited_s = (
            dt.datetime.fromisoformat(restart["not_before"])
            - dt.datetime.fromisoformat(restart["decided_at"])
        ).total_seconds()
        assert (waited_s > 1) is (incarnation > 1)  # 3 s, less what the decision took
        assert pair.copies(vm) == [after["host"]["name"]]

    operations = pair.product.items("/v1/operations", kind="vm.restart")
    assert [operation["status"] for operation in operations] == ["succeeded"] * 3
    (disk,) = [path for path in pair.first.storage.glob("*/*") if path.suffix == ".qcow2"]
    # The runs before it may have ended before their guest got so far.
    wait_until(
        lambda: 4 in {stamp.incarnation for stamp in read_stamps(disk)}, 60, "stamps of run 4"
    )
    pair.product.post(f"/v1/vms/{vm}/stop", Prefer="wait=30")
    pair.product.await_status(f"/v1/vms/{vm}", "down")
    assert_single_writer(read_stamps(disk))


def test_a_plug_is_pulled_and_its_vms_come_up_elsewhere_in_their_order(pair: Pair) -> None:
    product, lost, left = pair.product, pair.first, pair.second
    product.post(f"/v1/hosts/{left.id}/maintenance", Prefer="wait=30")
    low = pair.make("low", disk=True, high_availability={"priority": 10})
    high = pair.make("high", disk=True, high_availability={"priority": 90})
    stopped = pair.make("stopped", high_availability={"priority": 100})
    plain = pair.make("plain", start_with_host={"priority": 1})
    pair.start(low, high, stopped, plain)
    product.post(f"/v1/hosts/{left.id}/activate")
    left.await_up()
    assert set(lost.machine.qemu_pids()) == {low, high, stopped, plain}
    disks = list(lost.storage.glob("*/*.qcow2"))
    wait_until(lambda: written(disks) == {1}, 60, "stamps of both", interval_s=0.3)

    lost.machine.power_off()
    product.post(f"/v1/vms/{stopped}/stop")  # nobody knows yet that nobody can carry it out
    silent = product.await_status(f"/v1/hosts/{lost.id}", "non_responsive", timeout_s=60)
    assert "host confirm-off" in silent["next"]
    waiting = product.await_status(f"/v1/vms/{high}", "unknown")
    assert waiting["last_known_status"] == "up"
    assert "restarted elsewhere" in waiting["next"]
    assert f"host confirm-off {lost.name}" in waiting["next"]
    assert product.items("/v1/operations", kind="vm.restart") == []
    pair.confirm_off(lost)

    for vm in (high, low):
        document = restarted(pair, vm, 2)
        assert document["host"]["name"] == left.name
        assert pair.copies(vm) == [left.name]
    placed = [
        event["object"]["id"]
        for event in product.items("/v1/events", name="USER_STARTED_VM", sort="position")
    ]
    assert placed[-2:] == [high, low]
    for vm in (stopped, plain):
        assert product.get(f"/v1/vms/{vm}")["status"] == "down"
        assert pair.copies(vm) == []

    pair.boot(lost)
    home = restarted(pair, plain, 2)
    assert (home["host"]["name"], home["restart"]["cause"]) == (lost.name, "start_with_host")
    assert product.get(f"/v1/vms/{stopped}")["status"] == "down"
    wait_until(lambda: written(disks) == {1, 2}, 90, "stamps of both runs", interval_s=0.3)
    for vm in (high, low):
        assert pair.copies(vm) == [left.name]
        product.post(f"/v1/vms/{vm}/stop", Prefer="wait=30")
        product.await_status(f"/v1/vms/{vm}", "down")
    for disk in disks:
        assert_single_writer(read_stamps(disk))


def test_power_comes_back_to_the_whole_site_and_everything_runs_again_unfenced(pair: Pair) -> None:
    product = pair.product
    vms = [
        pair.make(f"vm{number}", high_availability={"priority": 10 * number + 1})
        for number in range(3)
    ]
    plain = pair.make("plain")
    pair.start(*vms, plain)

    for host in pair.hosts:
        host.machine.power_off()
    for host in pair.hosts:
        product.await_status(f"/v1/hosts/{host.id}", "non_responsive", timeout_s=60)
    assert product.items("/v1/operations", kind="vm.restart") == []
    for host in pair.hosts:
        pair.boot(host)

    for vm in vms:
        document = restarted(pair, vm, 2)
        assert document["restart"]["reason"] == "host_lost"
        assert pair.copies(vm) == [document["host"]["name"]]
    assert product.get(f"/v1/vms/{plain}")["status"] == "down"
    assert pair.copies(plain) == []
    assert product.items("/v1/events", name="USER_CLEAR_UNKNOWN_VMS") == []
