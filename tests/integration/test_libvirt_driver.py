"""The libvirt driver keeps the drivers' contract, on a real host with real guests."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.contract.driver_contract import DriverContract
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.workspace import Workspace
from tests.integration.libvirt_driver_rig import LibvirtRig, opened_rig, started_host

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def shared_host(workspace: Workspace, host_network: HostNetwork) -> Iterator[LibvirtHost]:
    with started_host(workspace, host_network, 41) as host:
        yield host


@pytest.fixture
async def rig(shared_host: LibvirtHost, guest: Guest) -> AsyncIterator[LibvirtRig]:
    async with opened_rig(shared_host, guest) as rig:
        yield rig


class TestLibvirtDriver(DriverContract):
    """The contract, on libvirt and QEMU."""
