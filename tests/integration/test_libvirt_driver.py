"""The libvirt driver keeps the drivers' contract, on a real host with real guests."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.contract.driver_contract import DriverContract
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.workspace import Workspace
from tests.integration.libvirt_driver_rig import LibvirtRig

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def shared_host(workspace: Workspace, host_network: HostNetwork) -> Iterator[LibvirtHost]:
    host = LibvirtHost(workspace, host_network, 41)
    host.start()
    yield host
    host.stop()


@pytest.fixture
async def rig(shared_host: LibvirtHost, guest: Guest) -> AsyncIterator[LibvirtRig]:
    rig = LibvirtRig(shared_host, guest)
    await rig.driver.open()
    rig.listen()
    yield rig
    await rig.end()
    await rig.driver.close()
    rig.clean()


class TestLibvirtDriver(DriverContract):
    """The contract, on libvirt and QEMU."""
