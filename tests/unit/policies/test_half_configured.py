"""Whatever was begun and never finished can be removed, and nothing is left of it (FEATURES A5)."""

from __future__ import annotations

import pytest

from commands.cluster.create import CreateCluster
from commands.cluster.remove import RemoveCluster
from commands.data_center.create import CreateDataCenter
from commands.data_center.remove import RemoveDataCenter
from commands.host.add import AddHost
from commands.host.remove import RemoveHost
from commands.kernel.refusal import InUse, Refusal
from commands.mac_pool.create import CreateMacPool
from commands.mac_pool.remove import RemoveMacPool
from commands.operation.cancel import CancelOperation
from commands.state.host import HostStatus
from commands.state.mac_input import MacRangeInput
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm, DiskInput, NicInput
from commands.vm.remove import RemoveVm
from commands.vm.start import StartVm
from events.claims import Mode
from events.types.host import HostJoinRequested
from tests.unit.policies.stage import GIB, Stage

RANGE = MacRangeInput(first="02:00:00:00:00:00", last="02:00:00:00:00:ff")


class Place:
    """A data center with a cluster that has a MAC pool, and not one host."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.pool = self.center = ""

    async def make(self) -> None:
        self.pool = await self.stage.do(CreateMacPool(name="west", ranges=(RANGE,)))
        self.center = await self.stage.do(CreateDataCenter(name="West"))
        self.stage.cluster = await self.stage.do(
            CreateCluster(name="West", data_center=self.center, mac_pool=self.pool)
        )
        await self.stage.runner.begin()

    async def announced(self, *, asked: bool) -> str:
        """A host that was announced; with `asked`, a machine waits to be let in as this host."""
        host = await self.stage.do(AddHost(name="kvm01", cluster=self.stage.cluster))
        if asked:
            request = HostJoinRequested(
                name="kvm01", token="t", public_key_sha256="k", hardware="h", signing_request="r"
            )
            await self.stage.append(f"host/{host}", request)
        return host

    async def vm(self, *, disk: bool) -> str:
        """A VM that was asked for, with or without a disk that nobody can make."""
        disks = (DiskInput(size_bytes=GIB),) if disk else ()
        vm = await self.stage.do(
            CreateVm(
                name="web01",
                cluster=self.stage.cluster,
                disks=disks,
                nics=(NicInput(bridge="br0"),),
            )
        )
        await self.stage.settle()
        return vm

    async def clear(self) -> None:
        """Remove cluster, data center and pool; nothing but their own ends is claimed then."""
        await self.stage.do(RemoveCluster(id=self.stage.cluster))
        await self.stage.do(RemoveDataCenter(id=self.center))
        await self.stage.do(RemoveMacPool(id=self.pool))
        held = {
            (key, holder): holding
            for (key, holder), holding in self.stage.log.claims().items()
            if not (key == holder and holding.mode is Mode.EXCLUSIVE)
        }
        assert held == {}


@pytest.fixture
async def place() -> Place:
    place = Place()
    await place.make()
    return place


async def test_a_cluster_without_hosts(place: Place) -> None:
    await place.clear()


@pytest.mark.parametrize("asked", [False, True])
async def test_a_host_that_never_came(place: Place, asked: bool) -> None:  # noqa: FBT001
    host = await place.announced(asked=asked)
    wanted = HostStatus.PENDING_APPROVAL if asked else HostStatus.INSTALLING
    assert (await place.stage.host(host)).status is wanted
    with pytest.raises(InUse):
        await place.stage.do(RemoveCluster(id=place.stage.cluster))
    await place.stage.do(RemoveHost(id=host))
    await place.clear()


async def test_a_vm_whose_disks_nobody_could_make(place: Place) -> None:
    vm = await place.vm(disk=True)
    status = (await place.stage.vm(vm)).status
    if status is VmStatus.IMAGE_LOCKED:  # it waits for a host: somebody calls that off
        await place.stage.do(CancelOperation(id=place.stage.operation or ""))
        await place.stage.settle()
        status = (await place.stage.vm(vm)).status
    assert status is VmStatus.IMAGE_ILLEGAL
    await place.stage.do(RemoveVm(id=vm))
    await place.stage.settle()
    await place.clear()


async def test_a_vm_that_no_host_could_start(place: Place) -> None:
    vm = await place.vm(disk=False)
    try:
        await place.stage.do(StartVm(id=vm))
    except Refusal:
        pass
    else:
        await place.stage.settle()
    assert (await place.stage.vm(vm)).status is VmStatus.DOWN
    await place.stage.do(RemoveVm(id=vm))
    await place.clear()


async def test_all_of_it_together(place: Place) -> None:
    host = await place.announced(asked=True)
    vm = await place.vm(disk=False)
    await place.stage.do(RemoveHost(id=host))
    await place.stage.do(RemoveVm(id=vm))
    await place.clear()
