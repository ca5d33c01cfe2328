"""Disks of a VM that is pinned to CPUs lie on a host that has them: it will run there."""

from __future__ import annotations

import msgspec

from commands.state.host import HOST
from commands.state.tuning_input import PinInput, TuningInput
from commands.vm.create import CreateVm, DiskInput
from events.types.host import HostCapabilitiesReported
from events.types.operation import Outcome
from tests.unit.policies.stage import CAPABILITIES, GIB, Stage


async def test_disks_are_made_where_the_pinned_cpus_are() -> None:
    stage = Stage()
    _few, many = await stage.open(2)
    able = msgspec.structs.replace(CAPABILITIES, cpus=16)
    await stage.append(HOST.stream(many), HostCapabilitiesReported(capabilities=able))
    disks = (DiskInput(size_bytes=GIB),)

    def pinned(cpus: str) -> TuningInput:
        return TuningInput(cpu_pins=(PinInput(vcpu=0, cpus=cpus),))

    vm = await stage.do(CreateVm(name="a", cluster=stage.cluster, disks=disks, tuning=pinned("12")))
    await stage.settle()
    assert (await stage.vm(vm)).disks_host == many
    await stage.do(CreateVm(name="b", cluster=stage.cluster, disks=disks, tuning=pinned("16")))
    await stage.settle()
    operation = await stage.op()
    assert operation.outcome is Outcome.FAILED
    assert "It has no CPU 16, which the VM is pinned to." in operation.reason
