"""A VM that writes to its memory faster than it may be copied, and what its policy does about that,
as QEMU and libvirt have it.

The guest writes to 32 MiB without end, and 16 MiB/s may be copied: so a round takes two seconds and
never ends with less to copy than it began with. Nobody but the agent's policy takes a step.
"""

from __future__ import annotations

import json

import pytest

from tests.harness.guest import Guest
from tests.harness.processes import wait_until
from tests.system.migration_rig import MIB, Moving, started
from tests.system.product import Json
from tests.system.real_host import RealHost

pytestmark = pytest.mark.timeout(300)
Pair = tuple[RealHost, RealHost]
SCRIBBLES_MIB = 32
MIB_PER_S = 16
STOPPED, POST_COPY = "paused (migrating)", "paused (post-copy)"


class Seen:
    """What was seen of a migration: the down times that the source's QEMU was told of, those that
    the operation showed, each in order, and the states of the VM at its source while QEMU copied.
    """

    def __init__(self, moving: Moving, asked: Json) -> None:
        self.at_qemu: list[int] = []
        self.shown: list[int] = []
        self.states: set[str] = set()
        self._moving = moving
        self._path = f"/v1/operations/{asked['operation']['id']}"

    def look(self) -> bool:
        """Look once more; tell whether the operation is over."""
        state = self._moving.state()
        if self._asked("query-migrate").get("status") in {"active", "postcopy-active"}:
            self.states.add(state)
        _note(self.at_qemu, self._asked("query-migrate-parameters").get("downtime-limit"))
        operation = self._moving.product.get(self._path)
        copying = operation["steps"][1]["copying"] or {}
        _note(self.shown, copying.get("down_time_ms"))
        return operation["status"] in {"succeeded", "failed", "cancelled"}

    def stopped_by_policy(self) -> bool:
        """Look once more; tell whether the VM stands still though QEMU copies."""
        self.look()
        return STOPPED in self.states

    def until_over(self) -> Json:
        """Look on until the operation is over; return it."""
        wait_until(self.look, 90, "the migration's end", detail=lambda: f"{vars(self)}")
        operation: Json = self._moving.product.get(self._path)
        return operation

    def _asked(self, command: str) -> Json:
        """Return QEMU's own answer; nothing where it is not there any more."""
        words = ("qemu-monitor-command", self._moving.vm, json.dumps({"execute": command}))
        said = self._moving.virsh(*words, check=False)
        answer: Json = json.loads(said).get("return", {}) if said.startswith("{") else {}
        return answer


def _note(values: list[int], value: int | None) -> None:
    if value is not None and values[-1:] != [value]:
        values.append(value)


def busy(
    pair: Pair, guest: Guest, name: str, policy: str, **migration: object
) -> tuple[Moving, Json, Seen]:
    """Return a VM that writes without end, and is being copied under a policy."""
    bandwidth = MIB_PER_S * MIB
    settings = {"policy": policy, "bandwidth_bytes_per_s": bandwidth} | migration
    moving = started(pair, guest, name, scribble_mib=SCRIBBLES_MIB, migration=settings)
    asked = moving.migrate()
    return moving, asked, Seen(moving, asked)


def test_post_copy_is_begun_by_its_policy(pair: Pair, guest: Guest) -> None:
    moving, _asked, seen = busy(pair, guest, "by-policy", "post_copy")

    operation = seen.until_over()

    assert operation["status"] == "succeeded", operation
    assert POST_COPY in seen.states
    assert seen.at_qemu == seen.shown == [100, 150, 200]
    copying = operation["steps"][1]["copying"]
    assert copying["post_copy"]
    assert not copying["suspended"]
    assert copying["throttle_percent"] > 0, "the hypervisor was to slow its CPUs down"
    moving.goes_on(moving.destination.name)
    moving.finish()


def test_longer_down_times_come_first_where_the_workload_may_be_suspended(
    pair: Pair, guest: Guest
) -> None:
    """given 5 s of down time at last, then the 32 MiB go in them and nothing is suspended"""
    moving, _asked, seen = busy(pair, guest, "long-down-time", "suspend_workload")

    operation = seen.until_over()

    assert operation["status"] == "succeeded", operation
    assert seen.shown == [100, 150, 200, 300, 400, 500, 5_000]
    assert seen.at_qemu[:6] == seen.shown[:6]
    assert STOPPED not in seen.states
    assert not operation["steps"][1]["copying"]["suspended"]
    moving.goes_on(moving.destination.name)
    moving.finish()


def test_a_workload_is_suspended_by_its_policy_within_the_down_time_that_was_set(
    pair: Pair, guest: Guest
) -> None:
    moving, _asked, seen = busy(pair, guest, "suspended", "suspend_workload", down_time_ms=160)

    operation = seen.until_over()

    assert operation["status"] == "succeeded", operation
    assert STOPPED in seen.states
    assert seen.at_qemu == seen.shown == [100, 150, 160]
    assert operation["steps"][1]["copying"]["suspended"]
    moving.goes_on(moving.destination.name)
    moving.finish()


@pytest.mark.parametrize("end", ["cancelled", "source agent", "source libvirtd"])
def test_a_suspended_workload_goes_on_where_it_is_if_the_migration_ends(
    pair: Pair, guest: Guest, end: str
) -> None:
    moving, asked, seen = busy(
        pair, guest, "suspended-in-vain", "suspend_workload", down_time_ms=100
    )
    wait_until(seen.stopped_by_policy, 60, "the VM to be suspended")
    moving.virsh("migrate-setspeed", moving.vm, "1")  # the rest of its memory takes a while

    if end == "cancelled":
        moving.product.post(f"/v1/operations/{asked['operation']['id']}/cancel")
    elif end == "source agent":
        moving.source.agent.kill()
        moving.source.start_agent()
    else:
        moving.source.machine.kill_libvirtd()

    operation = moving.product.finish(asked, timeout_s=60)
    assert operation["status"] == ("cancelled" if end == "cancelled" else "failed"), operation
    moving.goes_on(moving.source.name)
    moving.finish()
