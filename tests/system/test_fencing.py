"""Hosts that are lost are turned off by their BMCs, for real, and never run a VM a second time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from chronovisor.installation import Installation
from tests.conftest import require
from tests.harness.bmc import PASSWORD
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.fence_rig import SILENT_S, Rig, fenced_pair
from tests.system.product import Product

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def rig(
    workspace: Workspace,
    host_network: HostNetwork,
    make_libvirt_host: Callable[[], LibvirtHost],
    guest: Guest,
) -> Iterator[Rig]:
    """Two real hosts with BMCs, and a highly available VM that runs on one of them."""
    require("libvirt")
    require("ipmi")
    with fenced_pair(workspace, host_network, make_libvirt_host, guest) as rig:
        yield rig


def test_the_plug_of_a_host_is_pulled_and_its_vm_comes_up_on_the_other(rig: Rig) -> None:
    product, lost = rig.product, rig.first
    other = rig.other(lost)
    for verb in ("power_status", "power_test"):
        tried = product.finish(product.post(f"/v1/hosts/{lost.id}/{verb}"))
        assert tried["status"] == "succeeded", tried
        assert "its power is on" in tried["reason"]
    begun = time.monotonic()
    lost.bmc.pull_plug()

    rig.await_restart(other)

    took_s = time.monotonic() - begun
    assert took_s < 60, f"{took_s:.0f} s from the plug to the VM's being up again"
    print(f"from the plug to the VM's being up again: {took_s:.1f} s")  # noqa: T201 - a figure
    product.await_status(f"/v1/hosts/{lost.id}", "up", timeout_s=60)
    fencing = rig.fencing()
    wait_until(lambda: rig.fencing()["status"] == "succeeded", 30, f"the end of {fencing}")
    names = rig.names()
    assert names.count("host.fenced_off") == 1
    assert names.count("vm.placed") == 2
    assert names.index("host.fenced_off") < names.index("vm.down")
    _require_no_secret(product)
    rig.require_one_copy()


@pytest.mark.parametrize("cut", ["two ways", "one way"])
def test_a_host_that_is_cut_off_is_turned_off_before_its_vm_starts_elsewhere(
    rig: Rig, cut: str
) -> None:
    """given a host that is alive and cannot be reached, then it is off before the VM starts"""
    lost = rig.first
    other = rig.other(lost)
    if cut == "two ways":
        lost.machine.cut_off()
    else:  # what it sends goes nowhere; what is sent to it arrives
        manager = lost.machine.manager_address
        lost.machine.run(
            ["ip", "neigh", "replace", manager, "lladdr", "02:00:00:00:00:99", "dev", "eth0"]
        )

    rig.await_restart(other)

    assert lost.bmc.turned_off == 1
    rig.product.await_status(f"/v1/hosts/{lost.id}", "up", timeout_s=60)
    rig.require_one_copy()


def test_a_bmc_that_lies_is_not_believed_while_the_host_answers(rig: Rig) -> None:
    """given a BMC that says off and does nothing, when the host is seen alive, nothing starts"""
    lost = rig.first
    lost.bmc.lies = True
    lost.agent.pause()
    wait_until(
        lambda: "host.fence_failed" in rig.names(),
        90,
        "the contradiction to be found",
        detail=rig.product.last_words,
    )
    fencing = rig.fencing()
    assert fencing["status"] == "needs_attention"
    assert "it answers at" in fencing["attention"]["reason"]
    assert "host.fenced_off" not in rig.names()
    assert rig.product.get(f"/v1/vms/{rig.vm}")["status"] == "unknown"

    lost.agent.resume()

    rig.product.await_status(f"/v1/hosts/{lost.id}", "up", timeout_s=60)
    assert rig.product.await_status(f"/v1/vms/{rig.vm}", "up")["host"]["name"] == lost.name
    wait_until(lambda: rig.fencing()["status"] == "succeeded", 30, "the end of the fencing")
    rig.require_one_copy()


def test_a_bmc_without_power_leaves_the_vm_unknown_until_a_person_says_otherwise(
    rig: Rig,
) -> None:
    lost = rig.first
    lost.bmc.kill()
    lost.machine.power_off()
    wait_until(
        lambda: "host.fence_failed" in rig.names(),
        120,
        "the fencing to fail",
        detail=rig.product.last_words,
    )
    assert rig.fencing()["status"] == "needs_attention"
    assert rig.product.get(f"/v1/vms/{rig.vm}")["status"] == "unknown"
    assert rig.copies_max == 1
    rig.product.post(f"/v1/hosts/{lost.id}/confirm_off", {"name": lost.name})
    rig.await_restart(rig.other(lost))
    assert "host.fenced_off" not in rig.names()
    rig.require_one_copy()


@pytest.mark.parametrize("part", ["engine", "policies"])
def test_a_part_that_stood_still_fences_nobody(rig: Rig, part: str) -> None:
    """given an engine that is frozen for longer than hosts may be silent, then nobody is fenced"""
    rig.product.pause(part, 3 * SILENT_S)
    time.sleep(3 * SILENT_S)
    assert "host.fencing_begun" not in rig.names()
    assert [host.bmc.turned_off for host in rig.hosts] == [0, 0]
    assert rig.product.await_status(f"/v1/vms/{rig.vm}", "up")
    rig.require_one_copy()


def test_policies_that_are_killed_between_order_and_result_fence_once(rig: Rig) -> None:
    lost = rig.first
    lost.machine.cut_off()
    rig.await_event("host.fence_ordered")
    rig.product.kill("policies")
    rig.await_event("host.fenced_off")
    rig.product.kill("policies")

    rig.await_restart(rig.other(lost))

    assert lost.bmc.turned_off == 1
    assert rig.names().count("host.fenced_off") == 1
    rig.product.await_status(f"/v1/hosts/{lost.id}", "up", timeout_s=60)
    rig.require_one_copy()


def _require_no_secret(product: Product) -> None:
    """Require that the password is in no event, answer or log; it lies, sealed, in the vault."""
    assert product.count_secrets() == 2
    with psycopg.connect(Installation.open(product.root).dsn()) as connection:
        rows = connection.execute(
            "select count(*) from log.log where payload like %s", (f"%{PASSWORD}%".encode(),)
        ).fetchone()
        answers = connection.execute(
            "select count(*) from log.answers where answer like %s", (f"%{PASSWORD}%".encode(),)
        ).fetchone()
    assert (rows, answers) == ((0,), (0,))
    for log in (product.root / "log").glob("*.log"):
        assert PASSWORD not in log.read_text(errors="replace"), log.name
