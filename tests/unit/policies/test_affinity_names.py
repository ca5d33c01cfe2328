"""Reasons call VMs by the names that they have now, not by those that their groups know."""

from __future__ import annotations

from commands.affinity.create_group import CreateAffinityGroup
from commands.vm.create import CreateVm
from commands.vm.start import StartVm
from commands.vm.update import UpdateVm
from events.types.affinity import Polarity
from tests.unit.policies.stage import Stage, running


async def test_a_refusal_names_a_vm_that_was_renamed() -> None:
    stage = Stage()
    (host,) = await stage.open()
    first = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
    second = await stage.do(CreateVm(name="web02", cluster=stage.cluster))
    group = CreateAffinityGroup(
        name="apart",
        cluster=stage.cluster,
        vm_rule=Polarity.NEGATIVE,
        vm_enforcing=True,
        vms=(first, second),
    )
    await stage.do(group)
    await stage.do(StartVm(id=first))
    await stage.settle()
    await stage.report(host, running(first))
    await stage.do(UpdateVm(id=first, name="front"))
    await stage.do(StartVm(id=second))
    await stage.settle()
    assert "VM front is there, and affinity group apart" in (await stage.op()).reason
