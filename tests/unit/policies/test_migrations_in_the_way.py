"""A migration that waits for a host to drop what an earlier one brought is in nobody's way."""

from __future__ import annotations

import pytest

from commands.cluster.migration import SetClusterMigration
from events.types.job import JobKind
from events.types.operation import Outcome
from events.types.vm_copies import VmStaleCopyFound
from events.wire.agent import JobItem, JobState
from tests.unit.policies.puppet import play_on
from tests.unit.policies.stage import Stage, absent, running
from tests.unit.policies.test_migrations import asked, attention_of, on_one_host, waits, where


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.open(hosts=3)
    await stage.do(SetClusterMigration(id=stage.cluster, outgoing_max=1))
    return stage


async def fails(stage: Stage, vm: str, *, elsewhere: bool = False) -> str:
    """Let the source say that it could not send a VM; return the host that is to drop its half."""
    state = await stage.vm(vm)
    (entry,) = [each for each in state.jobs if each.job.kind is JobKind.VM_MIGRATE]
    assert entry.job.sending is not None
    item = JobItem(
        job=entry.job.id, vm=vm, state=JobState.FAILED, reason="it broke", elsewhere=elsewhere
    )
    await stage.report(entry.host, item)
    await stage.settle()
    return entry.job.sending.destination


@pytest.mark.parametrize("silent", [True, False])
async def test_who_waits_for_a_drop_is_passed_by(stage: Stage, silent: bool) -> None:  # noqa: FBT001
    vms = await on_one_host(stage, 3)
    await asked(stage, vms[0])
    destination = await fails(stage, vms[0])
    first = await asked(stage, vms[0])
    if silent:
        await stage.silence(destination)

    second, third = [await asked(stage, vm) for vm in vms[1:]]

    assert waits(await stage.op(first))
    if silent:
        assert "does not answer" in await attention_of(stage, first)
    assert not waits(await stage.op(second)), "one goes at a time, and the first cannot"
    assert "place 1." in (await stage.op(third)).detail

    # The host answers, and drops it: now the first has its place again, before the third.
    if silent:
        await stage.hello(destination)
    await stage.report(destination, absent(vms[0], 1))
    await stage.settle()
    assert "place 1." in (await stage.op(first)).detail
    assert "place 2." in (await stage.op(third)).detail
    await play_on(stage)
    for key in (first, second, third):
        assert (await stage.op(key)).outcome is Outcome.SUCCEEDED


async def test_who_tries_another_host_meanwhile_is_passed_by(stage: Stage) -> None:
    """given a destination that took nothing in and falls silent before it has said so"""
    vms = await on_one_host(stage, 2)
    first, second = [await asked(stage, vm) for vm in vms]
    assert waits(await stage.op(second))

    destination = await fails(stage, vms[0], elsewhere=True)
    await stage.silence(destination)

    assert "does not answer" in await attention_of(stage, first)
    assert not waits(await stage.op(second))


async def test_who_waits_and_turns_out_to_have_a_copy_elsewhere_lets_others_go(
    stage: Stage,
) -> None:
    vms = await on_one_host(stage, 3)
    first, second, third = [await asked(stage, vm) for vm in vms]
    assert "place 1." in (await stage.op(second)).detail
    home = await where(stage, vms[0])
    other = next(host for host in await stage.hosts() if host != home)
    copy = VmStaleCopyFound(name="web1", host=other, host_name="other", incarnation=0)
    await stage.append(f"vm/{vms[1]}", copy)
    await stage.settle()
    assert "place 1." in (await stage.op(third)).detail, "the second cannot go now"

    await stage.report(home, running(vms[0], 1))
    await play_on(stage)

    assert {(await stage.op(key)).outcome for key in (first, third)} == {Outcome.SUCCEEDED}
