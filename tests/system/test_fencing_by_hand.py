"""Power by hand on two real hosts: testing that off is off, start, stop, restart, a second agent.

Nothing listens on the hosts that a proxy could see: what a BMC says is all that a proxy knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conftest import require
from tests.harness.bmc import Bmc
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.fence_rig import FencedHost, Rig, fenced_pair
from tests.system.product import Json

pytestmark = pytest.mark.timeout(300)
POWER_S = 120


@pytest.fixture
def rig(
    workspace: Workspace,
    host_network: HostNetwork,
    make_libvirt_host: Callable[[], LibvirtHost],
    guest: Guest,
) -> Iterator[Rig]:
    """Two real hosts with BMCs, and nothing on them; the first is in maintenance."""
    require("libvirt")
    require("ipmi")
    with fenced_pair(workspace, host_network, make_libvirt_host, guest, idle=True) as rig:
        told = rig.product.finish(rig.product.post(f"/v1/hosts/{rig.hosts[0].id}/maintenance"))
        assert told["status"] == "succeeded", told
        yield rig


def power(rig: Rig, host: FencedHost, verb: str) -> Json:
    """Have something be done with a host's power; return its operation, which has ended."""
    begun = rig.product.post(f"/v1/hosts/{host.id}/power_{verb}")
    return rig.product.finish(begun, timeout_s=POWER_S)


def steps(operation: Json) -> dict[str, str]:
    return {step["name"]: step["status"] for step in operation["steps"]}


def hellos(rig: Rig) -> int:
    return rig.names().count("host.session_started")


def require_refused(rig: Rig, host: FencedHost, *verbs: str) -> None:
    """Require that a host that is up is neither turned off nor on."""
    for verb in verbs:
        refused = rig.product.http.post(f"/v1/hosts/{host.id}/power_{verb}", json={})
        assert refused.status_code == httpx.codes.CONFLICT, verb
        assert "is up" in refused.json()["detail"]


def test_off_is_off_only_where_the_host_itself_shows_it(rig: Rig) -> None:
    """given a BMC that lies, and then does as it is told, then the one test fails, the other not"""
    host = rig.hosts[0]
    boot = host.machine.boot_id
    host.bmc.lies = True

    lie = power(rig, host, "test_off")

    assert lie["status"] == "failed", lie
    assert "Off is not really off: bmc said, through host kvm02," in lie["reason"]
    assert "with the boot that it had before" in lie["reason"]
    assert "host.fenced_off" not in rig.names()
    assert (host.bmc.turned_off, host.machine.boot_id) == (0, boot)
    assert host.agent.running

    host.bmc.lies = False
    truth = power(rig, host, "test_off")

    assert truth["status"] == "succeeded", truth
    assert set(steps(truth).values()) == {"done"}
    assert "said hello with another boot" in truth["reason"]
    assert (host.bmc.turned_off, rig.names().count("host.fenced_off")) == (1, 1)
    assert host.machine.boot_id != boot
    rig.product.post(f"/v1/hosts/{host.id}/activate")
    host.await_up()


def test_power_is_switched_by_hand_also_by_a_second_agent(rig: Rig, workspace: Workspace) -> None:
    """given a host in maintenance, then it is turned off and on; given a dead BMC, by the second"""
    product, host = rig.product, rig.hosts[0]
    require_refused(rig, rig.hosts[1], "start", "stop", "restart", "test_off")
    before = hellos(rig)
    stopped = power(rig, host, "stop")
    assert stopped["status"] == "succeeded", stopped
    assert not host.machine.on
    assert "its power is off" in power(rig, host, "status")["reason"]

    started = power(rig, host, "start")
    assert started["status"] == "succeeded", started
    wait_until(lambda: hellos(rig) == before + 1, 60, "its agent to say hello")

    restarted = power(rig, host, "restart")
    assert restarted["status"] == "succeeded", restarted
    assert host.bmc.turned_off == 2
    wait_until(lambda: hellos(rig) == before + 2, 60, "its agent to say hello again")

    spare = Bmc(workspace, host.machine, host.start_agent, name="spare")
    spare.start()
    try:
        agent = spare.fence_agent() | {"order": 2}
        product.post(f"/v1/hosts/{host.id}/fence_agents", agent)
        host.bmc.kill()
        again = power(rig, host, "stop")
        assert again["status"] == "succeeded", again
        assert "spare through host kvm02: its power is off" in again["reason"]
        assert (host.bmc.turned_off, spare.turned_off) == (2, 1)
        assert not host.machine.on
    finally:
        spare.stop()
