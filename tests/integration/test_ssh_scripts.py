"""What a machine itself refuses: a worker that was superseded, an order that is over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from commands.remote.scripts import script
from tests.conftest import require
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.ssh_machine import SshMachine


@pytest.fixture
def machine(make_libvirt_host: Callable[[], LibvirtHost]) -> SshMachine:
    require("libvirt")
    require("sshd")
    machine = SshMachine(make_libvirt_host())
    machine.prepare()
    return machine


def run(
    machine: SshMachine, name: str, action: str, number: int, *, first: bool = False, host: str
) -> tuple[int, str]:
    """Run a step's script as a worker of this number does; return how it ended, and said so."""
    variables = {
        "ORDER": f"order-of-{host}-{number // 100}",
        "HOST": host,
        "NUMBER": str(number),
        "LIMIT_S": "5",
        "FIRST": "yes" if first else "no",
        "ACTION": action,
        "ARCHITECTURE": "x86_64",
        "PYTHON": "3.11",
    }
    path = machine.host.folder / "step.sh"
    path.write_text(script(name, variables, {}))
    ended = machine.host.run(["sh", path], check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_a_superseded_worker_and_an_order_that_is_over_are_refused(machine: SshMachine) -> None:
    status, said = run(machine, "inspect", "do", 105, first=True, host="h1")
    assert status == 0, said
    assert run(machine, "inspect", "do", 107, first=True, host="h1")[0] == 0
    status, said = run(machine, "packages", "do", 105, host="h1")
    assert status != 0
    assert "Another engine has taken the order over" in said
    assert run(machine, "packages", "do", 107, host="h1")[0] == 0

    assert run(machine, "finish", "undo", 107, host="h1")[0] == 0
    status, said = run(machine, "packages", "do", 107, host="h1")
    assert status != 0
    assert "The order is over" in said
    assert machine.traces() == set()


def test_what_an_order_left_behind_is_taken_over_by_the_same_host_only(
    machine: SshMachine,
) -> None:
    def before(order: str) -> str:
        return machine.read(f"/var/lib/chronovisor-install/{order}/before")

    assert run(machine, "inspect", "do", 101, first=True, host="h1")[0] == 0
    assert run(machine, "packages", "do", 101, host="h1")[0] == 0
    noted = before("order-order-of-h1-1")
    assert noted
    assert run(machine, "inspect", "do", 201, first=True, host="h2")[0] == 0
    assert before("order-order-of-h2-2") == ""
    assert run(machine, "inspect", "do", 301, first=True, host="h1")[0] == 0
    assert before("order-order-of-h1-3") == noted
    assert before("order-order-of-h1-1") == ""
