"""What the inventory shows of a migration, at each of its turns."""

from __future__ import annotations

from typing import cast

import pytest

from commands.cluster.migration import SetClusterMigration
from events.envelope import Recorded
from events.types.job import JobKind
from events.types.migration import CopyProgress, Held
from events.wire.agent import JobItem, JobState
from projections.views.inventory import Inventory
from projections.views.vm_document import VmDocument, VmStatus
from projections.views.vm_words import explained
from tests.unit.policies.plays import PLAYS, Play, begin
from tests.unit.policies.puppet import play_on
from tests.unit.policies.stage import Stage, absent
from tests.unit.policies.test_migrations import asked, held, job_of, on_one_host, started, where
from tests.unit.projections.history import History
from tests.unit.projections.test_agrees_with_commands import Both


class Told:
    """A history that happened elsewhere."""

    def __init__(self, events: list[Recorded]) -> None:
        self.events = events

    def recorded(self, after: int) -> list[Recorded]:
        """Return what was recorded after the first so many."""
        return self.events[after:]


async def shown(stage: Stage) -> Inventory:
    """Return the inventory, compared with the decisions' states after each event."""
    both = Both(cast("History", Told(await stage.history())))
    both.catch_up()
    return both.inventory


async def vm_of(stage: Stage, vm: str) -> VmDocument:
    """Return a VM as the API shows it."""
    document = (await shown(stage)).vms.get(vm)
    assert document is not None
    return explained(document)


@pytest.mark.parametrize(
    "play", [p for p in PLAYS if p.kind == "vm.migrate"], ids=lambda play: play.name
)
async def test_all_of_it_agrees_with_the_decisions(play: Play) -> None:
    begun = await begin(play)
    await play_on(begun.stage)
    inventory = await shown(begun.stage)
    operation = inventory.operations.get(begun.operation)
    assert operation is not None
    assert operation.status.value == "succeeded"


async def test_who_waits_shows_its_place() -> None:
    stage = Stage()
    await stage.open(hosts=2)
    await stage.do(SetClusterMigration(id=stage.cluster, outgoing_max=1))
    vms = await on_one_host(stage, 2)
    for vm in vms:
        await asked(stage, vm)

    (operation,) = (await vm_of(stage, vms[1])).operations

    assert operation.detail.startswith("It waits for its turn, at place 1.")


async def test_how_far_it_is_shows_on_the_vm() -> None:
    stage = Stage()
    await stage.open(hosts=2)
    vm = await started(stage, "web")
    await asked(stage, vm)
    job = await job_of(stage, vm)
    assert job.kind is JobKind.VM_MIGRATE
    copying = CopyProgress(total_bytes=100, remaining_bytes=40, copied_bytes=60, rounds=1)
    item = JobItem(job=job.id, vm=vm, state=JobState.RUNNING, percent=60, copying=copying)
    await stage.report(await where(stage, vm), item)

    (operation,) = (await vm_of(stage, vm)).operations

    assert operation.copying == copying
    assert operation.percent == (100 + 60) // 3


async def test_a_held_vm_is_not_said_to_run() -> None:
    stage = Stage()
    await stage.open(hosts=2)
    vm = await started(stage, "web")
    await asked(stage, vm)
    job = await held(stage, vm, Held.SWITCH_OVER)

    document = await vm_of(stage, vm)

    assert document.status is VmStatus.MIGRATING
    assert "stopped it in the midst" in document.status_reason
    assert job.sending is not None
    await stage.report(job.sending.destination, absent(vm, 1))
    failed = JobItem(job=job.id, vm=vm, state=JobState.FAILED, reason="it was let go on")
    await stage.report(await where(stage, vm), failed)
    after = await vm_of(stage, vm)
    assert (after.status, after.pause_reason) == (VmStatus.UP, None)
