"""Every fault at every stage of a migration between two real hosts: one copy is left, or it is said
that it is not known where one is.

By default the combinations that tell most are tried; `test_migration` has more of those while
copying and at the switch-over. ALL_FAULTS=1 (`make faults`) tries all.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.harness.guest import Guest
from tests.harness.processes import wait_until
from tests.harness.stamps import read_stamps
from tests.system.migration_rig import MIB, Moving, mend, started
from tests.system.product import Json
from tests.system.real_host import RealHost

pytestmark = pytest.mark.timeout(300)
Pair = tuple[RealHost, RealHost]
ALL = os.environ.get("ALL_FAULTS") == "1"
POST_COPY_MIB_PER_S = 2
BROKEN = "paused (post-copy failed)"


def _restart_agent(host: RealHost) -> None:
    host.agent.kill()
    host.start_agent()


FAULTS: dict[str, Callable[[Moving], None]] = {
    "source machine": lambda moving: moving.source.machine.power_off(),
    "destination machine": lambda moving: moving.destination.machine.power_off(),
    "source agent": lambda moving: _restart_agent(moving.source),
    "destination agent": lambda moving: _restart_agent(moving.destination),
    "source libvirtd": lambda moving: moving.source.machine.kill_libvirtd(),
    "destination libvirtd": lambda moving: moving.destination.machine.kill_libvirtd(),
    "link": lambda moving: moving.cut_line(),
    "destination's network": lambda moving: moving.destination.machine.cut_off(),
}


# ---------------------------------------------------------------------- stages


def _copying(pair: Pair, guest: Guest, name: str) -> tuple[Moving, Json]:
    moving = started(pair, guest, name)
    moving.slow_down()
    return moving, moving.migrate()


def _switch_over(pair: Pair, guest: Guest, name: str) -> tuple[Moving, Json]:
    moving, asked = _copying(pair, guest, name)
    moving.await_switch_over()
    return moving, asked


def _post_copy(pair: Pair, guest: Guest, name: str) -> tuple[Moving, Json]:
    slowly = {"policy": "post_copy", "bandwidth_bytes_per_s": POST_COPY_MIB_PER_S * MIB}
    moving = started(pair, guest, name, migration=slowly)
    asked = moving.migrate()
    moving.begin_post_copy()
    before = len(read_stamps(moving.disk))
    wait_until(lambda: len(read_stamps(moving.disk)) > before, 30, "stamps in post-copy")
    return moving, asked


STAGES = {"copying": _copying, "switch-over": _switch_over, "post-copy": _post_copy}


# ---------------------------------------------------------------------- what is to come of it


def _stays(moving: Moving, asked: Json, pair: Pair) -> None:
    """It runs on at its source, and the operation says so while the fault lasts."""
    operation = moving.product.finish(asked, timeout_s=90)
    assert operation["status"] == "failed", operation
    assert f"runs on host {moving.source.name}" in operation["reason"]
    mend(pair)
    moving.goes_on(moving.source.name)
    moving.finish()


def _one_of_both(moving: Moving, asked: Json, pair: Pair) -> None:
    """It comes to run at one of both hosts, at which one the operation's outcome says."""
    mend(pair)
    operation = moving.product.finish(asked, timeout_s=90)
    where = moving.goes_on()
    succeeded = where == moving.destination.name
    assert operation["status"] == ("succeeded" if succeeded else "failed"), operation
    assert succeeded or f"runs on host {where}" in operation["reason"]
    moving.finish()


def _unknown_then_down(moving: Moving, asked: Json, pair: Pair) -> None:
    """Where it is is not known until its source is back; then it is down."""
    _is_unknown(moving, asked)
    mend(pair)
    operation = moving.product.finish(asked, timeout_s=60)
    assert operation["status"] == "failed", operation
    moving.product.await_status(f"/v1/vms/{moving.vm}", "down")
    assert not [host.name for host in pair if moving.vm in host.machine.qemu_pids()]


def _unknown_then_told(moving: Moving, asked: Json, pair: Pair) -> None:
    """Where it is is not known until its source is back; then it goes on at its destination if that
    had all of it, and is down if not.
    """
    _is_unknown(moving, asked)
    mend(pair)
    operation = moving.product.finish(asked, timeout_s=60)
    if operation["status"] == "succeeded":
        moving.goes_on(moving.destination.name)
        moving.finish()
        return
    assert "went down" in operation["reason"]
    moving.product.await_status(f"/v1/vms/{moving.vm}", "down")
    assert not [host.name for host in pair if moving.vm in host.machine.qemu_pids()]


def _is_unknown(moving: Moving, asked: Json) -> None:
    moving.attention(asked, f"{moving.source.name} does not answer")
    moving.product.await_status(f"/v1/vms/{moving.vm}", "unknown")


def _recovers(moving: Moving, asked: Json, pair: Pair) -> None:
    """It comes to its end at the destination, by itself, once what failed is back."""
    mend(pair)
    moving.hurry_post_copy()
    operation = moving.product.finish(asked, timeout_s=120)
    assert operation["status"] == "succeeded", operation
    moving.goes_on(moving.destination.name)
    moving.finish()


def _waits_and_recovers(moving: Moving, asked: Json, pair: Pair) -> None:
    """It stands still, the operation says what goes on and what can be done, and it recovers."""
    wait_until(lambda: moving.state() == BROKEN, 40, "post-copy to break")
    attention = moving.attention(asked, "stands still")
    for host in pair:
        assert host.name in attention["reason"]
    assert "goes on by itself" in attention["remedy"]
    assert "host confirm-off" in attention["remedy"]
    _recovers(moving, asked, pair)
    names = [event["name"] for event in moving.audit()]
    assert "VM_MIGRATION_HELD" in names
    assert "VM_MIGRATION_MENDED" in names


def _half_is_lost(moving: Moving, asked: Json, pair: Pair) -> None:
    """It stands still until it is certain that one half is gone; then it is down, with the cause,
    nothing of it is left anywhere, and it can be started.
    """
    _falls(moving, asked, pair)
    moving.product.await_status(f"/v1/vms/{moving.vm}", "down", timeout_s=40)
    assert "broke off in post-copy" in moving.document()["down_detail"]
    for host in pair:
        host.await_gone(moving.vm)
    restarted = moving.product.post(f"/v1/vms/{moving.vm}/start", Prefer="wait=60")
    assert moving.product.finish(restarted)["status"] == "succeeded"
    moving.goes_on()
    moving.finish(boots=2)


def _half_is_lost_and_it_starts_again(moving: Moving, asked: Json, pair: Pair) -> None:
    """As above, but that nobody has to start it: it is highly available."""
    path = f"/v1/vms/{moving.vm}/high_availability"
    moving.product.post(path, {"priority": 50})
    _falls(moving, asked, pair)
    moving.goes_on()
    assert moving.document()["incarnation"] == 2
    moving.finish(boots=2)


def _falls(moving: Moving, asked: Json, pair: Pair) -> None:
    """Check that it waits while a machine is off, and is ended once that is back without it."""
    moving.attention(asked, "stands still")
    qemus = [host for host in pair if host.machine.on and moving.vm in host.machine.qemu_pids()]
    assert len(qemus) == 1, "the other half is kept until the first is certain to be gone"
    mend(pair)
    operation = moving.product.finish(asked, timeout_s=60)
    assert operation["status"] == "failed", operation
    assert "broke off in post-copy" in operation["reason"]
    assert "VM_MIGRATION_HALF_LOST" in [event["name"] for event in moving.audit()]


Outcome = Callable[[Moving, Json, Pair], None]
MATRIX: dict[tuple[str, str], tuple[Outcome, bool]] = {
    ("copying", "source machine"): (_unknown_then_down, False),
    ("copying", "destination machine"): (_stays, False),
    ("copying", "source agent"): (_stays, False),
    ("copying", "destination agent"): (_stays, False),
    ("copying", "source libvirtd"): (_stays, False),
    ("copying", "destination libvirtd"): (_stays, False),
    ("copying", "link"): (_stays, False),
    ("copying", "destination's network"): (_stays, False),
    ("switch-over", "source machine"): (_unknown_then_told, True),
    ("switch-over", "destination machine"): (_one_of_both, True),
    ("switch-over", "source agent"): (_one_of_both, False),
    ("switch-over", "destination agent"): (_one_of_both, False),
    ("switch-over", "source libvirtd"): (_one_of_both, False),
    ("switch-over", "destination libvirtd"): (_one_of_both, False),
    ("switch-over", "link"): (_stays, False),
    ("switch-over", "destination's network"): (_stays, False),
    ("post-copy", "source machine"): (_half_is_lost_and_it_starts_again, True),
    ("post-copy", "destination machine"): (_half_is_lost, False),
    ("post-copy", "source agent"): (_recovers, False),
    ("post-copy", "destination agent"): (_recovers, False),
    ("post-copy", "source libvirtd"): (_recovers, False),
    ("post-copy", "destination libvirtd"): (_recovers, True),
    ("post-copy", "link"): (_waits_and_recovers, True),
    ("post-copy", "destination's network"): (_waits_and_recovers, False),
}


@pytest.mark.parametrize(
    ("stage", "fault"), [case for case, (_outcome, default) in MATRIX.items() if default or ALL]
)
def test_a_fault_leaves_one_copy_and_it_is_said_where(
    pair: Pair, guest: Guest, stage: str, fault: str
) -> None:
    name = f"{stage}-{fault}".replace(" ", "-").replace("'", "")
    moving, asked = STAGES[stage](pair, guest, name)

    FAULTS[fault](moving)

    MATRIX[stage, fault][0](moving, asked, pair)
