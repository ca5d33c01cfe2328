"""A host that writes its kernel's dump, as the real fence_kdump_send tells, is not turned off."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import require
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import free_port, start_process, wait_until
from tests.harness.workspace import Workspace
from tests.system.fence_rig import KDUMP_SEND, SILENT_S, Rig, fenced_pair
from tests.system.product import Json

pytestmark = pytest.mark.timeout(400)
WAITS_S, ENDED_AFTER_S = 3.0, 9.0
"""How long a dump's first word is waited for, and when a dump is over, with these settings."""
MALFORMED = """
import socket, struct, sys, time
target = (sys.argv[1], int(sys.argv[2]))
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
real = struct.pack("<II", 0x1B302A40, 1)
while True:
    for text in (b"", real[:7], real + b"x", struct.pack("<II", 0x1B302A40, 2), b"\\0" * 8):
        link.sendto(text, target)
    time.sleep(0.3)
"""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def rig(
    workspace: Workspace,
    host_network: HostNetwork,
    make_libvirt_host: Callable[[], LibvirtHost],
    guest: Guest,
    port: int,
) -> Iterator[Rig]:
    require("libvirt")
    require("ipmi")
    with fenced_pair(workspace, host_network, make_libvirt_host, guest, kdump_port=port) as rig:
        yield rig


@pytest.mark.parametrize("end", ["falls silent", "boots"])
def test_a_host_that_dumps_is_not_turned_off_before_it_has(rig: Rig, port: int, end: str) -> None:
    product, lost = rig.product, rig.first
    other = rig.other(lost)
    lost.crash()
    dumping = lost.say_dump(port)
    wait_until(lambda: host(rig, lost.id)["power"]["kdumping"], 60, "the dump to be seen")
    shown = host(rig, lost.id)
    assert shown["status"] == "kdumping"
    assert "writes its dump" in shown["status_reason"]
    wait_until(lambda: "writes its" in host(rig, lost.id)["next"], 30, "the fencing to wait for it")
    over = time.monotonic() + WAITS_S + ENDED_AFTER_S + 3
    while time.monotonic() < over:
        assert host(rig, lost.id)["power"]["kdumping"]
        assert "host.fence_ordered" not in rig.names()
        assert product.get(f"/v1/vms/{rig.vm}")["status"] == "unknown"
        time.sleep(0.5)
    assert (lost.bmc.turned_off, rig.copies_max) == (0, 1)

    if end == "boots":
        lost.start_agent()  # while its last words come in: a busy machine may take long to boot it
        again = restarted(rig)
        dumping.kill()
        assert lost.bmc.turned_off == 0
        assert "host.fence_ordered" not in rig.names()
        assert "answers again" in rig.fencing()["reason"]
    else:
        dumping.kill()
        again = rig.await_restart(other)
        assert lost.bmc.turned_off == 1
        names = rig.names()
        assert names.index("host.kdump_ended") < names.index("host.fence_ordered")
        assert names.index("host.fenced_off") < names.index("vm.down")
    assert again["incarnation"] == 2
    assert rig.names().count("host.kdump_started") == 1
    product.await_status(f"/v1/hosts/{lost.id}", "up", timeout_s=60)
    assert not host(rig, lost.id)["power"]["kdumping"]
    rig.require_one_copy()


def test_false_senders_change_nothing(rig: Rig, port: int, workspace: Workspace) -> None:
    """given messages of the living, of strangers, and malformed ones, then none is a dump"""
    product, lost = rig.product, rig.first
    other, manager = rig.other(lost), lost.machine.manager_address
    in_its_name = lost.say_dump(port)  # of a host that is heard: as good as a forged source
    other.say_dump(port)  # all the time
    stranger = start_process(
        [str(KDUMP_SEND), "-p", str(port), "-i", "1", manager],
        workspace.make_folder("stranger") / "log",
    )
    workspace.note_process(stranger.pid)
    try:
        time.sleep(5)
        assert host(rig, lost.id)["status"] == "up"
        assert "host.kdump_started" not in rig.names()
        in_its_name.kill()
        time.sleep(ENDED_AFTER_S + 1)

        lost.crash()
        lost.machine.launch(
            [sys.executable, "-c", MALFORMED, manager, str(port)],
            lost.machine.folder / "malformed.log",
        )
        begun = time.monotonic()
        rig.await_restart(other)

        took_s = time.monotonic() - begun
        assert took_s < SILENT_S + 60
        assert "host.kdump_started" not in rig.names()
        assert (lost.bmc.turned_off, other.bmc.turned_off) == (1, 0)
        product.await_status(f"/v1/hosts/{lost.id}", "up", timeout_s=60)
        rig.require_one_copy()
    finally:
        stranger.kill()
        stranger.wait()


def host(rig: Rig, host_id: str) -> Json:
    return rig.product.get(f"/v1/hosts/{host_id}")


def restarted(rig: Rig) -> Json:
    """Wait until the VM is up in its second run, wherever."""

    def there() -> Json:
        vm = rig.product.get(f"/v1/vms/{rig.vm}")
        return vm if vm["status"] == "up" and vm["incarnation"] == 2 else {}

    return wait_until(there, 120, "the VM's second run", detail=rig.product.last_words)
