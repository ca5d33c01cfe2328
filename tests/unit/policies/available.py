"""What the tests of restarts share: VMs that are highly available, and what befalls them."""

from __future__ import annotations

from commands.host.confirm_off import ConfirmHostOff
from commands.policies.saga import RestartRules
from commands.state.availability_input import HighAvailabilityInput
from commands.state.operation import OperationState
from commands.state.vm import VmStatus
from commands.state.vm_availability import RESTART_KINDS
from commands.vm.create import CreateVm
from commands.vm.start import StartVm
from events.types.vm import DownReason
from events.types.vm_availability import VmRestartDecided
from tests.unit.policies.puppet import operations, play_on
from tests.unit.policies.stage import Stage, absent

RULES = RestartRules()


async def make(stage: Stage, name: str = "web01", priority: int = 1, **more: object) -> str:
    """A VM that is highly available, and down."""
    available = HighAvailabilityInput(priority=priority) if priority else None
    return await stage.do(
        CreateVm(name=name, cluster=stage.cluster, high_availability=available, **more)  # type: ignore[arg-type]
    )


async def start(stage: Stage, *vms: str) -> None:
    for vm in vms:
        await stage.do(StartVm(id=vm))
        await play_on(stage)
        assert (await stage.vm(vm)).status is VmStatus.UP


async def host_of(stage: Stage, vm: str) -> str:
    run = (await stage.vm(vm)).run
    assert run is not None
    return run.host


async def fall(stage: Stage, vm: str, reason: DownReason = DownReason.CRASHED) -> None:
    state = await stage.vm(vm)
    assert state.run is not None
    item = absent(vm, state.run.incarnation, reason=reason)
    await stage.report(state.run.host, item)


async def restarts(stage: Stage, vm: str | None = None) -> list[OperationState]:
    return [
        operation
        for operation in (await operations(stage)).values()
        if operation.kind in RESTART_KINDS.values() and (vm is None or operation.target_id == vm)
    ]


async def decided(stage: Stage) -> list[VmRestartDecided]:
    return [r.event for r in await stage.history() if isinstance(r.event, VmRestartDecided)]


async def confirm_off(stage: Stage, *hosts: str) -> None:
    for host in hosts:
        await stage.silence(host)
    for host in hosts:
        await stage.do(ConfirmHostOff(id=host, name=(await stage.host(host)).name))
    await stage.settle()
