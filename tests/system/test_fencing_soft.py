"""Soft fencing for real: a host's agent hangs, and is restarted over SSH instead of fenced."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from chronovisor.installation import Installation
from tests.conftest import require
from tests.harness.bmc import Bmc
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import free_port, wait_until
from tests.harness.ssh_machine import SshMachine
from tests.harness.workspace import Workspace
from tests.system.powered_host import PoweredHost
from tests.system.product import Product
from tests.system.test_enrolment import SETTINGS, add, ended, ends

pytestmark = pytest.mark.timeout(400)
SCALE = 0.2
PATIENT = """
[hosts]
grace_s = 10
[fencing]
kdump_port = 0
soft_timeout_s = 600
"""
"""A machine kills an agent that hangs after 20 s, whatever the time scale; then another starts."""
PROXY_NUMBER = 90
FEW_S = 30


@pytest.fixture
def product(workspace: Workspace, host_network: HostNetwork) -> Iterator[Product]:
    """The product, where the machines reach it."""
    for what in ("libvirt", "sshd", "ipmi"):
        require(what)
    settings = SETTINGS.format(address=host_network.address, port=free_port())
    product = Product(workspace, "product", settings + PATIENT, hosts=0)
    product.start()
    yield product
    product.stop()


@pytest.fixture
def proxy(product: Product, workspace: Workspace) -> Iterator[PoweredHost]:
    """Another host of the cluster, which has the programs that would turn the first one off."""
    storage = workspace.make_folder("storage")
    proxy = PoweredHost(product, workspace, PROXY_NUMBER, storage, SCALE)
    try:
        proxy.join()
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture
def machine(make_libvirt_host: Callable[[], LibvirtHost]) -> SshMachine:
    """A machine with sshd, and with nothing of ours."""
    machine = SshMachine(make_libvirt_host())
    machine.prepare()
    return machine


def names(product: Product) -> list[str]:
    """Return the names of all events in the log."""
    with psycopg.connect(Installation.open(product.root).dsn()) as connection:
        rows = connection.execute("select name from log.log order by position").fetchall()
    return [row[0] for row in rows]


def test_an_agent_that_hangs_is_restarted_over_ssh_and_its_host_not_turned_off(
    product: Product, proxy: PoweredHost, machine: SshMachine, workspace: Workspace
) -> None:
    """given a host that was installed over SSH, when its agent hangs, then the BMC is left alone"""
    bmc = Bmc(workspace, machine.host)
    bmc.start()
    try:
        answer = add(product, machine)
        host = str(answer["id"])
        ended(product, answer)
        product.await_status(f"/v1/hosts/{host}", "up")
        product.post(f"/v1/hosts/{host}/fence_agents", bmc.fence_agent())
        product.http.patch(f"/v1/hosts/{host}/power", json={"enabled": True}).raise_for_status()
        tried = product.finish(product.post(f"/v1/hosts/{host}/power_test"))
        assert tried["status"] == "succeeded", tried  # it could be turned off
        orders = names(product).count("host.fence_ordered")
        hung = machine.agent_pid()

        machine.host.run(["kill", "-STOP", str(hung)])

        wait_until(
            lambda: "host.fencing_begun" in names(product),
            60,
            "the silence to be looked after",
            detail=product.last_words,
        )
        product.await_status(f"/v1/hosts/{host}", "up", timeout_s=120)
        fencings = [
            each
            for each in product.items("/v1/operations", limit="100")
            if (each["kind"], each["target"]["id"]) == ("host.fence", host)
        ]
        (fencing,) = [product.finish({"operation": each}, timeout_s=FEW_S) for each in fencings]
        assert fencing["status"] == "succeeded", fencing
        assert "it was not turned off" in fencing["reason"]
        assert {step["name"]: step["status"] for step in fencing["steps"]}["off"] == "pending"
        wait_until(lambda: len(ends(product, host)) == 2, FEW_S, "the order over SSH to end")
        assert ends(product, host)[-1] == (True, "")
        assert machine.agent_pid() not in {0, hung}
        assert names(product).count("host.fence_ordered") == orders
        assert "host.fenced_off" not in names(product)
        assert (bmc.turned_off, machine.host.on) == (0, True)
    finally:
        bmc.stop()
