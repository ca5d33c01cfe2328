"""The agent on a real hypervisor: libvirt and QEMU, with the tests' fake engine above it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from events.types.job import Job, JobKind
from events.types.run_spec import RunSpec
from events.types.vm import DownReason
from events.wire.agent import IntentVm, JobItem, JobState, Role, VmState
from hostagent.agent import HostAgent
from hostagent.identity import Identity
from hostagent.journal import Journal
from hostagent.tasks import end_tasks
from hostagent.timings import Timings
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import send_signal
from tests.harness.workspace import Workspace
from tests.integration.libvirt_driver_rig import LibvirtRig, started_host
from tests.unit.hostagent.fake_engine import FakeEngine, FakeGateway

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
TIMINGS = msgspec.structs.replace(
    Timings(),
    button_interval_s=1.0,
    guest_poll_s=0.3,
    guest_refresh_s=1.0,
    unknown_retry_s=0.3,
    retry_min_s=0.1,
    retry_max_s=1.0,
    call_timeout_s=15.0,
)
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def shared_host(workspace: Workspace, host_network: HostNetwork) -> Iterator[LibvirtHost]:
    with started_host(workspace, host_network, 47) as host:
        yield host


class Machine:
    """A libvirt host whose agent can be killed and started again."""

    def __init__(self, rig: LibvirtRig, folder: Path) -> None:
        self.rig = rig
        self.engine = FakeEngine()
        self.boot = "boot-1"
        self._folder = folder
        self._task: asyncio.Task[None] | None = None
        self._drivers_used = 0

    async def start(self) -> None:
        driver = self.rig.driver if not self._drivers_used else self.rig.make_driver()
        self._drivers_used += 1
        agent = HostAgent(
            Identity(host="h1", name="host01", hardware="hw1", boot=self.boot),
            driver,
            FakeGateway(self.engine),
            Journal.open(self._folder),
            timings=TIMINGS,
        )
        self._task = asyncio.create_task(agent.run())

    async def kill(self) -> None:
        if self._task is not None:
            await end_tasks({self._task})
            self._task = None

    def pid(self, spec: RunSpec) -> int | None:
        return self.rig.host.qemu_pids().get(spec.vm)

    async def running(self) -> RunSpec:
        """A VM with a disk, started by order, whose guest is up."""
        disk = self.rig.guest_disk()
        vm = str(uuid.uuid4())
        job = self.job(JobKind.DISK_CREATE, vm, 0, disks=(disk,))
        assert (await self.outcome(job)).state is JobState.DONE
        spec = self.rig.spec(vm, disks=(disk,))
        self.order(spec)
        await self.engine.until(
            lambda e: (vm, 1) in e.states and e.states[vm, 1].addresses, PATIENCE_S
        )
        assert self.engine.states[vm, 1].guest_up
        return spec

    def order(self, spec: RunSpec) -> None:
        self.engine.order(
            IntentVm(
                vm=spec.vm,
                incarnation=spec.incarnation,
                role=Role.RUN,
                position=0,
                spec=spec,
            )
        )

    def job(self, kind: JobKind, vm: str, incarnation: int = 1, **more: object) -> Job:
        return self.engine.order_job(
            Job(
                id=str(uuid.uuid4()),
                kind=kind,
                vm=vm,
                incarnation=incarnation,
                **more,  # type: ignore[arg-type]
            )
        )

    async def outcome(self, job: Job) -> JobItem:
        await self.engine.until(lambda e: job.id in e.outcomes, PATIENCE_S)
        return self.engine.outcomes[job.id]

    async def reason(self, spec: RunSpec) -> DownReason | None:
        key = (spec.vm, spec.incarnation)
        await self.engine.until(
            lambda e: key in e.states and e.states[key].state is VmState.ABSENT, PATIENCE_S
        )
        return self.engine.states[key].reason


@pytest.fixture
async def machine(shared_host: LibvirtHost, guest: Guest, tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(LibvirtRig(shared_host, guest), tmp_path / "state")
    await machine.start()
    yield machine
    await machine.kill()
    machine.rig.clean()
    assert machine.engine.violations == []


async def test_a_vm_lives_from_its_disk_to_its_shutdown(machine: Machine) -> None:
    spec = await machine.running()

    state = machine.engine.states[spec.vm, 1]
    assert state.hostname == "web01"
    assert "10.88.0.21" in state.addresses
    job = machine.job(JobKind.VM_SHUTDOWN, spec.vm, timeout_s=30.0)

    assert (await machine.outcome(job)).state is JobState.DONE
    assert await machine.reason(spec) is DownReason.ADMIN
    assert machine.pid(spec) is None
    removal = machine.job(
        JobKind.VOLUMES_REMOVE,
        spec.vm,
        0,
        volumes=tuple(disk.volume for disk in spec.configuration.disks),
    )
    assert (await machine.outcome(removal)).state is JobState.DONE


async def test_neither_the_agents_death_nor_libvirtds_touches_a_vm(machine: Machine) -> None:
    spec = await machine.running()
    before = machine.pid(spec)

    await machine.kill()
    machine.rig.host.kill_libvirtd()
    await asyncio.to_thread(machine.rig.host.wait_for_libvirtd)
    await machine.start()
    await machine.engine.until(lambda e: e.reports[-1].session == "session-2", PATIENCE_S)
    machine.rig.host.kill_libvirtd()
    await asyncio.to_thread(machine.rig.host.wait_for_libvirtd)
    job = machine.job(JobKind.VM_REBOOT, spec.vm)

    assert (await machine.outcome(job)).state is JobState.DONE
    assert machine.pid(spec) == before
    assert machine.engine.states[spec.vm, 1].state is VmState.RUNNING


async def test_a_killed_qemu_is_a_crash_seen_or_not(machine: Machine) -> None:
    spec = await machine.running()
    pid = machine.pid(spec)
    assert pid is not None

    send_signal(pid, 9)  # type: ignore[arg-type]

    assert await machine.reason(spec) is DownReason.CRASHED
    again = msgspec.structs.replace(spec, incarnation=2)
    machine.order(again)
    await machine.engine.until(
        lambda e: (spec.vm, 2) in e.states and e.states[spec.vm, 2].state is VmState.RUNNING,
        PATIENCE_S,
    )
    await machine.kill()
    second = machine.pid(spec)
    assert second is not None
    send_signal(second, 9)  # type: ignore[arg-type]
    await machine.start()
    assert await machine.reason(again) is DownReason.CRASHED


async def test_a_suspend_is_finished_by_the_agent_after_the_one_that_died(
    machine: Machine,
) -> None:
    spec = await machine.running()
    memory = f"{spec.vm}/memory-1.save"
    job = machine.job(JobKind.VM_SUSPEND, spec.vm, saved_memory=memory)
    await machine.engine.until(
        lambda e: any(isinstance(i, JobItem) and i.job == job.id for i in e.items), PATIENCE_S
    )

    await machine.kill()
    await machine.start()

    assert (await machine.outcome(job)).state is JobState.DONE
    assert await machine.reason(spec) is DownReason.SUSPENDED
    again = msgspec.structs.replace(spec, incarnation=2, restore_from=memory)
    machine.order(again)
    await machine.engine.until(
        lambda e: (spec.vm, 2) in e.states and e.states[spec.vm, 2].guest_up, PATIENCE_S
    )
    assert machine.engine.states[spec.vm, 2].restored


async def test_a_start_cut_short_runs_once_or_never(machine: Machine) -> None:
    spec = machine.rig.spec(str(uuid.uuid4()))
    machine.order(spec)
    await machine.engine.until(lambda e: (spec.vm, 1) in e.states, PATIENCE_S)

    await machine.kill()
    await machine.start()
    await machine.engine.until(
        lambda e: e.states[spec.vm, 1].state in {VmState.RUNNING, VmState.ABSENT}, PATIENCE_S
    )
    await asyncio.sleep(2.0)

    runs = machine.engine.states[spec.vm, 1].state is VmState.RUNNING
    assert (machine.pid(spec) is not None) == runs


async def test_a_power_off_goes_before_a_shutdown_that_a_guest_ignores(machine: Machine) -> None:
    spec = await machine.running()
    await machine.rig.pause(spec.vm)
    job = machine.job(JobKind.VM_SHUTDOWN, spec.vm, timeout_s=120.0)
    await machine.engine.until(
        lambda e: any(isinstance(i, JobItem) and i.job == job.id for i in e.items), PATIENCE_S
    )

    machine.engine.absent(spec.vm, reason=DownReason.ADMIN)

    assert await machine.reason(spec) is DownReason.ADMIN
    assert machine.pid(spec) is None
