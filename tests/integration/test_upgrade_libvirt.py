"""A host whose QEMU is upgraded while its agent runs, on real libvirt and QEMU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hostagent.driver import Happening
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.qemu_release import NEW, OLD, upgraded_qemu
from tests.harness.workspace import Workspace
from tests.integration.libvirt_driver_rig import opened_rig, started_host

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def upgraded_host(workspace: Workspace, host_network: HostNetwork) -> Iterator[LibvirtHost]:
    with started_host(workspace, host_network, 47) as host:
        yield host


async def test_what_an_upgraded_qemu_can_do_is_found_out_by_the_same_agent(
    upgraded_host: LibvirtHost, guest: Guest
) -> None:
    """given a VM that runs, when QEMU is replaced, then the host tells of its machine types without
    anybody's asking; and so it does once libvirt was restarted on the QEMU of before
    """
    host = upgraded_host
    async with opened_rig(host, guest) as rig:
        spec = await rig.running()
        before = await rig.driver.capabilities()
        assert OLD in before.machine_types
        assert NEW not in before.machine_types

        with upgraded_qemu(host):
            after = await rig.driver.capabilities()
            assert NEW in after.machine_types
            assert OLD not in after.machine_types
            assert (await rig.driver.capabilities(anew=True)).machine_types == after.machine_types
            assert await rig.domain(spec.vm) is not None

        host.kill_libvirtd()
        await rig.until(Happening.LOST)
        await rig.until(Happening.RECONNECTED)
        again = await rig.driver.capabilities()
        assert again.machine_types == before.machine_types
        assert await rig.domain(spec.vm) is not None
