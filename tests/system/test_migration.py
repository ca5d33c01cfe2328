"""Running VMs move between two real hosts that share a folder, and no fault makes a second copy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness.guest import Guest
from tests.harness.processes import wait_until
from tests.harness.stamps import read_stamps
from tests.system.migration_rig import MIB, Moving, mend, started
from tests.system.real_host import RealHost

pytestmark = pytest.mark.timeout(300)
Pair = tuple[RealHost, RealHost]
Fault = Callable[[Moving], None]


def restart_agent(host: RealHost) -> None:
    """Kill a host's agent, and with it the line between the hosts; start another."""
    host.agent.kill()
    host.start_agent()


WHILE_COPYING: dict[str, Fault] = {
    "source agent": lambda moving: restart_agent(moving.source),
    "destination agent": lambda moving: restart_agent(moving.destination),
    "source libvirtd": lambda moving: moving.source.machine.kill_libvirtd(),
    "destination libvirtd": lambda moving: moving.destination.machine.kill_libvirtd(),
    "link": lambda moving: moving.destination.machine.cut_off(),
    "destination": lambda moving: moving.destination.machine.power_off(),
}
AT_SWITCH_OVER: dict[str, Fault] = {
    "source agent": lambda moving: restart_agent(moving.source),
    "destination agent": lambda moving: restart_agent(moving.destination),
    "source libvirtd": lambda moving: moving.source.machine.kill_libvirtd(),
    "destination libvirtd": lambda moving: moving.destination.machine.kill_libvirtd(),
}


def test_a_running_vm_moves_there_and_back_and_goes_on_stamping(pair: Pair, guest: Guest) -> None:
    moving = started(pair, guest, "back-and-forth")
    product, vm = moving.product, moving.vm
    for destination in (moving.destination, moving.source):
        before = len(read_stamps(moving.disk))
        asked = product.post(f"/v1/vms/{vm}/migrate", {"host": destination.id})
        operation = product.finish(asked)
        assert operation["status"] == "succeeded", operation
        moving.goes_on(destination.name)
        assert len(read_stamps(moving.disk)) > before
        assert moving.document()["disks_host"]["name"] == destination.name
    moving.finish()


def test_a_cancelled_migration_leaves_the_vm_on_its_host(pair: Pair, guest: Guest) -> None:
    moving = started(pair, guest, "cancelled")
    moving.slow_down()
    asked = moving.migrate()
    path = f"/v1/operations/{asked['operation']['id']}"

    def total_bytes() -> int:
        copying = moving.product.get(path)["steps"][1]["copying"]
        return int(copying["total_bytes"]) if copying else 0

    wait_until(lambda: total_bytes() >= 128 * MIB, 30, "the copying's size to be shown")
    moving.product.post(f"{path}/cancel")

    operation = moving.product.finish(asked)
    assert operation["status"] == "cancelled", operation
    moving.goes_on(moving.source.name)
    moving.destination.await_gone(moving.vm)
    moving.finish()


@pytest.mark.parametrize("fault", WHILE_COPYING)
def test_what_goes_wrong_while_copying_leaves_the_vm_on_its_host(
    pair: Pair, guest: Guest, fault: str
) -> None:
    moving = started(pair, guest, f"copying-{fault.replace(' ', '-')}")
    moving.slow_down()
    asked = moving.migrate()

    WHILE_COPYING[fault](moving)

    operation = moving.product.finish(asked, timeout_s=90)
    assert operation["status"] == "failed", operation
    assert f"runs on host {moving.source.name}" in operation["reason"]
    mend(pair)
    moving.goes_on(moving.source.name)
    moving.finish()


@pytest.mark.parametrize("fault", AT_SWITCH_OVER)
def test_what_goes_wrong_at_the_switch_over_leaves_one_copy(
    pair: Pair, guest: Guest, fault: str
) -> None:
    moving = started(pair, guest, f"switch-{fault.replace(' ', '-')}")
    moving.slow_down()
    asked = moving.migrate()
    moving.await_switch_over()

    AT_SWITCH_OVER[fault](moving)
    mend(pair)

    operation = moving.product.finish(asked, timeout_s=90)
    where = moving.goes_on()
    succeeded = where == moving.destination.name
    assert operation["status"] == ("succeeded" if succeeded else "failed"), operation
    moving.finish()


def test_a_source_that_loses_its_power_while_copying_leaves_no_copy(
    pair: Pair, guest: Guest
) -> None:
    moving = started(pair, guest, "power")
    moving.slow_down()
    asked = moving.migrate()

    moving.source.machine.power_off()

    moving.attention(asked, f"{moving.source.name} does not answer")
    assert moving.document()["status"] == "unknown"
    mend(pair)
    operation = moving.product.finish(asked, timeout_s=60)
    assert operation["status"] == "failed"
    moving.product.await_status(f"/v1/vms/{moving.vm}", "down")
    assert not [host.name for host in pair if moving.vm in host.machine.qemu_pids()]


def in_post_copy(pair: Pair, guest: Guest, name: str) -> tuple[Moving, dict[str, object]]:
    """Return a VM that runs at its destination, while its memory is still at its source."""
    slowly = {"policy": "post_copy", "bandwidth_bytes_per_s": MIB}
    moving = started(pair, guest, name, migration=slowly)
    asked = moving.migrate()
    moving.begin_post_copy()
    return moving, asked


def test_in_post_copy_the_vm_goes_on_at_its_destination(pair: Pair, guest: Guest) -> None:
    moving, asked = in_post_copy(pair, guest, "post-copy")
    before = len(read_stamps(moving.disk))
    wait_until(lambda: len(read_stamps(moving.disk)) > before + 2, 30, "stamps in post-copy")
    moving.hurry_post_copy()

    operation = moving.product.finish(asked)
    assert operation["status"] == "succeeded", operation
    assert operation["steps"][1]["copying"]["post_copy"]
    moving.goes_on(moving.destination.name)
    moving.finish()
