"""One play or more for each saga: what there is before, and the command that begins it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from commands.cluster.balance import BalanceCluster, MoveInput
from commands.cluster.migration import SetClusterMigration
from commands.host.install import InstallHost
from commands.host.maintenance import MaintainHost
from commands.host.power_restart import PowerRestart
from commands.host.power_start import PowerStart
from commands.host.power_status import AskPowerStatus
from commands.host.power_stop import PowerStop
from commands.host.power_test import TestPower
from commands.host.power_test_off import TestPowerOff
from commands.host.refresh import RefreshHost
from commands.host.uninstall import UninstallHost
from commands.kernel.command import Command, Context, Decision
from commands.kernel.fold import World
from commands.policies.fence_watch import fence
from commands.policies.saga import RestartRules
from commands.policies.vm_restart import restart
from commands.state.host import HostState
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm, DiskInput
from commands.vm.migrate import MigrateVm
from commands.vm.migration import SetVmMigration
from commands.vm.reboot import RebootVm
from commands.vm.remove import RemoveVm
from commands.vm.resume import ResumeVm
from commands.vm.shutdown import ShutDownVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from commands.vm.suspend import SuspendVm
from events.types.host import HostMaintenanceEntered, HostMaintenanceRequested
from events.types.job import JobKind
from events.types.migration import MigrationMode
from events.types.operation import Outcome
from events.types.vm import DownReason, PauseReason
from events.types.vm_availability import RestartCause
from events.wire.agent import VmState as Reported
from events.wire.agent import VmStateItem
from tests.unit.policies.puppet import HOPS, play_on
from tests.unit.policies.puppet_power import FENCE, manage
from tests.unit.policies.puppet_ssh import SSH
from tests.unit.policies.stage import GIB, Stage, absent


class Play(NamedTuple):
    """A saga with all that it needs; `fails_by` is what a host must fail at to make it fail."""

    name: str
    kind: str
    command: Callable[[Stage], Awaitable[Command]]
    fails_by: str | None = None
    failed: Outcome = Outcome.FAILED


class Begun(NamedTuple):
    """A play whose command was just accepted, at position `begun`."""

    stage: Stage
    operation: str
    begun: int


async def begin(play: Play, hosts: int = 2) -> Begun:
    """Set the stage for a play and give its command; the policies have not moved yet."""
    stage = Stage()
    await stage.open(hosts)
    command = await play.command(stage)
    await play_on(stage)
    await stage.do(command)
    assert stage.operation is not None
    return Begun(stage, stage.operation, await stage.log.head())


async def _down(stage: Stage) -> str:
    return await stage.do(CreateVm(name="web01", cluster=stage.cluster))


async def _with_disk(stage: Stage) -> str:
    vm = await stage.do(
        CreateVm(name="web01", cluster=stage.cluster, disks=(DiskInput(size_bytes=GIB),))
    )
    await play_on(stage)
    return vm


async def _up(stage: Stage) -> str:
    vm = await _down(stage)
    await stage.do(StartVm(id=vm))
    await play_on(stage)
    assert (await stage.vm(vm)).status is VmStatus.UP
    return vm


class Restart(Command, frozen=True, kw_only=True):
    """What a policy begins by itself; here it is told to."""

    id: str
    cause: RestartCause
    host: HostState | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """See `restart`."""
        return restart(self.id, self.cause, RestartRules(), self.host)(world, context)


async def _crashed(stage: Stage) -> str:
    vm = await _up(stage)
    run = (await stage.vm(vm)).run
    assert run is not None
    await stage.report(run.host, absent(vm, reason=DownReason.CRASHED))
    return vm


async def _restart(stage: Stage) -> Command:
    return Restart(id=await _crashed(stage), cause=RestartCause.HIGH_AVAILABILITY)


async def _start_with_host(stage: Stage) -> Command:
    vm = await _crashed(stage)
    host = await stage.host((await stage.vm(vm)).availability.host or "")
    return Restart(id=vm, cause=RestartCause.START_WITH_HOST, host=host)


async def _paused(stage: Stage) -> str:
    vm = await _up(stage)
    run = (await stage.vm(vm)).run
    assert run is not None
    item = VmStateItem(
        vm=vm, incarnation=1, state=Reported.PAUSED, pause_reason=PauseReason.NO_SPACE
    )
    await stage.report(run.host, item)
    return vm


async def _suspended(stage: Stage) -> str:
    vm = await _up(stage)
    await stage.do(SuspendVm(id=vm))
    await play_on(stage)
    assert (await stage.vm(vm)).status is VmStatus.SUSPENDED
    return vm


async def _placed(stage: Stage) -> str:
    vm = await _down(stage)
    await stage.do(StartVm(id=vm))
    await stage.settle()
    return vm


async def _create(stage: Stage) -> Command:
    return CreateVm(name="db01", cluster=stage.cluster, disks=(DiskInput(size_bytes=GIB),))


async def _start(stage: Stage) -> Command:
    return StartVm(id=await _down(stage))


async def _start_with_disk(stage: Stage) -> Command:
    return StartVm(id=await _with_disk(stage))


async def _resume(stage: Stage) -> Command:
    return ResumeVm(id=await _suspended(stage))


async def _start_cold(stage: Stage) -> Command:
    return StartVm(id=await _suspended(stage), discard_saved_memory=True)


async def _shut_down(stage: Stage) -> Command:
    return ShutDownVm(id=await _up(stage))


async def _stop(stage: Stage) -> Command:
    return StopVm(id=await _up(stage))


async def _reboot(stage: Stage) -> Command:
    return RebootVm(id=await _up(stage))


async def _suspend(stage: Stage) -> Command:
    return SuspendVm(id=await _up(stage))


async def _migrate(stage: Stage) -> Command:
    return MigrateVm(id=await _up(stage))


async def _migrate_twice(stage: Stage) -> Command:
    await stage.add_host("host3")
    vm = await stage.do(CreateVm(name=HOPS, cluster=stage.cluster))
    await stage.do(StartVm(id=vm))
    await play_on(stage)
    return MigrateVm(id=vm)


async def _migrate_in_turn(stage: Stage) -> Command:
    await stage.do(SetClusterMigration(id=stage.cluster, outgoing_max=1))
    vms = []
    for name in ("first", "second"):
        vms.append(await stage.do(CreateVm(name=name, cluster=stage.cluster)))
        await stage.do(StartVm(id=vms[-1]))
        await play_on(stage)
    runs = [(await stage.vm(vm)).run for vm in vms]
    if runs[0] is not None and runs[1] is not None and runs[0].host != runs[1].host:
        await stage.do(MigrateVm(id=vms[1]))
        await play_on(stage)
    await stage.do(MigrateVm(id=vms[0]))
    return MigrateVm(id=vms[1])


async def _continue(stage: Stage) -> Command:
    return ResumeVm(id=await _paused(stage))


async def _remove(stage: Stage) -> Command:
    return RemoveVm(id=await _with_disk(stage))


async def _refresh(stage: Stage) -> Command:
    (host, *_others) = [r.object_id for r in await stage.history() if r.name == "host.added"]
    return RefreshHost(id=host)


async def _maintain_empty(stage: Stage) -> Command:
    (host, *_others) = [r.object_id for r in await stage.history() if r.name == "host.added"]
    return MaintainHost(id=host)


async def _maintain(stage: Stage) -> Command:
    run = (await stage.vm(await _up(stage))).run
    assert run is not None
    return MaintainHost(id=run.host)


async def _maintain_bound(stage: Stage) -> Command:
    vm = await _up(stage)
    await stage.do(SetVmMigration(id=vm, mode=MigrationMode.NONE))
    run = (await stage.vm(vm)).run
    assert run is not None
    return MaintainHost(id=run.host)


async def _resting(stage: Stage) -> str:
    (host, *_others) = [r.object_id for r in await stage.history() if r.name == "host.added"]
    name = (await stage.host(host)).name
    await stage.append(
        f"host/{host}", HostMaintenanceRequested(name=name), HostMaintenanceEntered(name=name)
    )
    return host


async def _install(stage: Stage) -> Command:
    return InstallHost(id=await _resting(stage), address="192.0.2.7")


async def _uninstall(stage: Stage) -> Command:
    return UninstallHost(id=await _resting(stage), address="192.0.2.7")


class Fence(Command, frozen=True, kw_only=True):
    """What a policy begins by itself; here it is told to."""

    host: HostState

    def decide(self, world: World, context: Context) -> Decision:
        """See `fence`."""
        return fence(self.host)(world, context)


async def _fence(stage: Stage) -> Command:
    host = await _managed(stage)
    await stage.silence(host)
    return Fence(host=await stage.host(host))


async def _managed(stage: Stage) -> str:
    (host, *_others) = [r.object_id for r in await stage.history() if r.name == "host.added"]
    await manage(stage, host)
    return host


async def _resting_and_managed(stage: Stage) -> str:
    host = await _resting(stage)
    await manage(stage, host)
    return host


async def _ask_power(stage: Stage) -> Command:
    return AskPowerStatus(id=await _managed(stage))


async def _test_power(stage: Stage) -> Command:
    return TestPower(id=await _managed(stage))


async def _test_power_off(stage: Stage) -> Command:
    return TestPowerOff(id=await _resting_and_managed(stage))


async def _power_start(stage: Stage) -> Command:
    return PowerStart(id=await _resting_and_managed(stage))


async def _power_stop(stage: Stage) -> Command:
    return PowerStop(id=await _resting_and_managed(stage))


async def _power_restart(stage: Stage) -> Command:
    return PowerRestart(id=await _resting_and_managed(stage))


async def _balance(stage: Stage) -> Command:
    vm = await _up(stage)
    run = (await stage.vm(vm)).run
    assert run is not None
    hosts = [key for key in await stage.hosts() if key != run.host]
    return BalanceCluster(id=stage.cluster, moves=(MoveInput(vm=vm, host=hosts[0]),))


async def _balance_well(stage: Stage) -> Command:
    await _up(stage)
    return BalanceCluster(id=stage.cluster)


PLAYS = (
    Play("create with a disk", "vm.create", _create, JobKind.DISK_CREATE),
    Play("start", "vm.start", _start, "start"),
    Play("start beside its disk", "vm.start", _start_with_disk, "start"),
    Play("resume from memory", "vm.start", _resume, "start"),
    Play("start without its memory", "vm.start", _start_cold, "start"),
    Play("restart after a crash", "vm.restart", _restart, "start"),
    Play("start with the host", "vm.start_with_host", _start_with_host, "start"),
    Play("shut down", "vm.shutdown", _shut_down, JobKind.VM_SHUTDOWN),
    Play("power off", "vm.stop", _stop),
    Play("reboot", "vm.reboot", _reboot, JobKind.VM_REBOOT),
    Play("suspend", "vm.suspend", _suspend, JobKind.VM_SUSPEND),
    Play("migrate", "vm.migrate", _migrate, JobKind.VM_MIGRATE),
    Play("migrate to the second host tried", "vm.migrate", _migrate_twice, JobKind.VM_MIGRATE),
    Play("migrate after another one", "vm.migrate", _migrate_in_turn, JobKind.VM_MIGRATE),
    Play("move what a plan names", "cluster.balance", _balance, JobKind.VM_MIGRATE),
    Play("balance where all is well", "cluster.balance", _balance_well),
    Play("continue", "vm.continue", _continue, JobKind.VM_CONTINUE),
    Play("remove with a disk", "vm.remove", _remove, JobKind.VOLUMES_REMOVE, Outcome.SUCCEEDED),
    Play("install a host", "host.install", _install, SSH),
    Play("uninstall a host", "host.uninstall", _uninstall),
    Play("refresh a host", "host.refresh", _refresh),
    Play("maintain an empty host", "host.maintenance", _maintain_empty),
    Play("fence a silent host", "host.fence", _fence, FENCE, Outcome.SUCCEEDED),
    Play("ask whether a host is on", "host.power_status", _ask_power, FENCE),
    Play("test a host's power management", "host.power_test", _test_power, FENCE),
    Play("test whether off is off", "host.power_test_off", _test_power_off, FENCE),
    Play("turn a host on", "host.power_start", _power_start, FENCE),
    Play("turn a host off", "host.power_stop", _power_stop, FENCE),
    Play("turn a host off and on", "host.power_restart", _power_restart, FENCE),
    Play("maintain a host with a VM", "host.maintenance", _maintain),
    Play("maintain a host with a bound VM", "host.maintenance", _maintain_bound),
)
