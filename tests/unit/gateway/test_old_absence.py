"""A host's word that it has nothing of a VM proves nothing about orders that it had not taken up.

A VM may come to the same host twice in one run: what the host says of the first time may be heard
after it was ordered to take the VM in again, and is not taken for the end of that.
"""

from __future__ import annotations

import pytest

from commands.state.vm import VmStatus
from commands.vm.migrate import MigrateVm
from events.types.vm import DownReason
from tests.unit.gateway.bench import Agent, Bench
from tests.unit.gateway.test_restored import run_vm, state
from tests.unit.policies.stage import absent, done, failed, running


async def begun_twice(bench: Bench) -> tuple[Agent, Agent, str]:
    """Return the source, the destination and a VM whose second migration there is under way; the
    destination has taken up no order since it said hello.
    """
    source, destination = await bench.agent("host1"), await bench.agent("host2")
    vm = await run_vm(bench, source)
    await bench.do(MigrateVm(id=vm))
    await bench.settle()
    (entry,) = state(bench, vm).jobs
    await source.report(failed(entry.job.id, vm, "nobody answers"))
    await bench.settle()
    await bench.do(MigrateVm(id=vm))
    await bench.settle()
    assert state(bench, vm).jobs == (), "the destination is to drop what came first"
    assert (await destination.say_hello()).status == 200
    await destination.report(absent(vm, reason=DownReason.WITHDRAWN))
    await bench.settle()
    migration = state(bench, vm).migration
    assert migration is not None
    assert migration.destination == destination.host
    assert destination.position < migration.position
    return source, destination, vm


@pytest.mark.parametrize("departed", [False, True])
async def test_what_is_said_of_an_earlier_migration_is_not_about_this_one(
    bench: Bench,
    departed: bool,  # noqa: FBT001
) -> None:
    source, destination, vm = await begun_twice(bench)
    (entry,) = state(bench, vm).jobs
    before = await bench.log.head()
    left = (absent(vm, reason=DownReason.MIGRATED), done(entry.job.id, vm))

    if departed:
        await source.report(*left)
    await destination.report(absent(vm, reason=DownReason.WITHDRAWN))
    if not departed:
        await source.report(*left)
    await bench.settle()

    names = await bench.names(before)
    assert not {"vm.migration_dropped", "vm.down"} & set(names)
    assert destination.host in state(bench, vm).may_run_on
    await destination.report(running(vm))
    await bench.settle()
    after = state(bench, vm)
    assert after.run is not None
    assert (after.run.host, after.status) == (destination.host, VmStatus.UP)


async def test_once_it_has_taken_up_its_order_its_word_counts(bench: Bench) -> None:
    _source, destination, vm = await begun_twice(bench)

    assert (await destination.say_hello()).status == 200
    await destination.report(absent(vm, reason=DownReason.CRASHED))

    assert "vm.migration_dropped" in (await bench.names())[-3:]
    assert destination.host not in state(bench, vm).may_run_on
