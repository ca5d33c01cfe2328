"""The long poll: it wakes for the host's own orders, and for nothing else."""

from __future__ import annotations

import asyncio

import msgspec

from commands.cluster.resources import SetClusterResources
from commands.gateway import view as view_module
from commands.gateway.view import GatewayView
from commands.vm.create import CreateVm, DiskInput
from commands.vm.remove import RemoveVm
from commands.vm.shutdown import ShutDownVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from events.types.host_memory import MemoryPolicy
from events.types.job import JobKind
from events.types.vm import DownReason
from events.wire.agent import Orders, Role, Welcome
from tests.unit.gateway.bench import Agent, Bench
from tests.unit.policies.stage import GIB, absent, done, running


async def started(bench: Bench, agent: Agent, name: str = "web01") -> str:
    vm = await bench.do(CreateVm(name=name, cluster=bench.cluster))
    await bench.do(StartVm(id=vm))
    await bench.settle()
    await agent.report(running(vm))
    await bench.settle()
    return vm


async def test_a_poll_wakes_on_an_order_and_tells_the_whole_item(bench: Bench) -> None:
    agent = await bench.agent()
    waiting = asyncio.create_task(agent.poll(30))
    vm = await bench.do(CreateVm(name="web01", cluster=bench.cluster))
    await bench.do(StartVm(id=vm))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await bench.settle()
    answer = await asyncio.wait_for(waiting, 15)
    (item,) = msgspec.convert(answer.body, Orders).changes.vms
    assert (item.vm, item.role, item.started) == (vm, Role.RUN, False)
    assert item.spec is not None


async def test_a_poll_sleeps_through_what_concerns_others(bench: Bench) -> None:
    """given two hosts, when one is ordered to start a VM and reports, then the other sleeps on"""
    agent, other = await bench.agent("host1"), await bench.agent("host2")
    waiting = asyncio.create_task(other.poll(0.3))
    vm = await started(bench, agent)
    await agent.report(running(vm, hostname="web01"))
    await bench.do(CreateVm(name="web02", cluster=bench.cluster))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert (await waiting).status == 204


async def test_a_poll_wakes_when_the_clusters_memory_settings_change(bench: Bench) -> None:
    agent = await bench.agent()
    hello = await agent.say_hello()
    assert msgspec.convert(hello.body, Welcome).intent.memory == MemoryPolicy()
    waiting = asyncio.create_task(agent.poll(30))
    await bench.do(SetClusterResources(id=bench.cluster, ha_reservation=True))
    await bench.settle()
    assert not waiting.done()
    await bench.do(SetClusterResources(id=bench.cluster, ksm=True))
    await bench.settle()
    answer = await asyncio.wait_for(waiting, 15)
    changes = msgspec.convert(answer.body, Orders).changes
    assert changes.memory == MemoryPolicy(ksm=True)
    assert await agent.changes(after=changes.position) is None
    again = await agent.say_hello()
    assert msgspec.convert(again.body, Welcome).intent.memory == MemoryPolicy(ksm=True)


async def test_a_poll_from_where_the_last_answer_ended_tells_nothing_twice(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await started(bench, agent)
    await bench.do(StopVm(id=vm))
    await bench.settle()
    orders = await agent.changes()
    assert orders is not None
    assert [item.role for item in orders.changes.vms] == [Role.ABSENT]
    assert (await agent.poll(after=orders.changes.position)).status == 204


async def test_orders_that_were_missed_are_told_as_what_is_wanted_now(bench: Bench) -> None:
    """given an agent that missed start and stop, when it polls, then it hears absent only"""
    agent = await bench.agent()
    vm = await bench.do(CreateVm(name="web01", cluster=bench.cluster))
    await bench.do(StartVm(id=vm))
    await bench.settle()
    await bench.do(StopVm(id=vm))
    await bench.settle()
    orders = await agent.changes()
    assert orders is not None
    assert [(i.role, i.reason) for i in orders.changes.vms] == [(Role.ABSENT, DownReason.ADMIN)]


async def test_a_job_is_told_until_it_is_taken_back_or_done(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await started(bench, agent)
    await bench.do(ShutDownVm(id=vm))
    await bench.settle()
    orders = await agent.changes()
    assert orders is not None
    (job,) = orders.changes.jobs
    assert job.kind is JobKind.VM_SHUTDOWN
    await bench.do(StopVm(id=vm))
    await bench.settle()
    later = await agent.changes(after=orders.changes.position)
    assert later is not None
    assert later.changes.jobs == ()
    assert later.changes.jobs_withdrawn == (job.id,)
    await agent.say_hello()
    assert agent.welcome is not None
    assert agent.welcome.intent.jobs == ()


async def test_a_position_too_far_back_ends_the_session(bench: Bench) -> None:
    agent = await bench.agent()
    view = bench.engine.view
    for number in range(view_module.WITHDRAWN_JOBS_MAX + 1):
        view._withdrawn[agent.host].append((agent.position + 1 + number, f"job{number}"))
    answer = await agent.poll()
    assert answer.status == 409
    assert (await agent.poll(after=agent.position + 2_000)).status == 204


async def test_the_intent_follows_from_the_log_alone(bench: Bench) -> None:
    """given a gateway that restarts, when it has read the log, then it orders the same"""
    agent = await bench.agent()
    vm = await started(bench, agent)
    await bench.do(ShutDownVm(id=vm))
    await bench.do(CreateVm(name="db01", cluster=bench.cluster, disks=(DiskInput(size_bytes=GIB),)))
    await bench.settle()
    fresh = GatewayView()
    for recorded in await bench.history():
        fresh.take(recorded)
    assert fresh.intent(agent.host) == bench.engine.view.intent(agent.host)
    assert len(fresh.intent(agent.host).jobs) == 2


async def test_a_vm_that_is_gone_leaves_nothing_behind(bench: Bench) -> None:
    agent = await bench.agent()
    vm = await bench.do(
        CreateVm(name="db01", cluster=bench.cluster, disks=(DiskInput(size_bytes=GIB),))
    )
    await bench.settle()
    (job,) = bench.engine.view.intent(agent.host).jobs
    await agent.report(done(job.id, vm))
    await bench.settle()
    await bench.do(StartVm(id=vm))
    await bench.settle()
    await agent.report(running(vm))
    await agent.report(absent(vm, reason=DownReason.GUEST))
    await bench.do(RemoveVm(id=vm))
    await bench.settle()
    (job,) = bench.engine.view.intent(agent.host).jobs
    await agent.report(done(job.id, vm))
    await bench.settle()
    view = bench.engine.view
    assert view.vms == {}
    assert not any(view._vms_of.values())
    assert not any(view._changed.values())
