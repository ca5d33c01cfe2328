"""Two real libvirt hosts that share their storage folder, under one product."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import free_port
from tests.harness.workspace import Workspace
from tests.system.product import Json, Product
from tests.system.real_host import RealHost, vm_body

SETTINGS = """
time_scale = {time_scale}
[api]
host = "{address}"
[gateway]
host = "{address}"
port = {port}
"""


HostOf = Callable[[Product, LibvirtHost, str], RealHost]


class Pair:
    """The product and its two hosts, first and second."""

    def __init__(self, product: Product, hosts: list[RealHost], guest: Guest) -> None:
        self.product = product
        self.first, self.second = hosts
        self.hosts = hosts
        self._guest = guest

    def copies(self, vm: str) -> list[str]:
        """Return the names of the hosts on which a QEMU of the VM is."""
        return [host.name for host in self.hosts if host.machine.on and vm in self._on(host)]

    @staticmethod
    def _on(host: RealHost) -> dict[str, int]:
        return host.machine.qemu_pids()

    def make(self, name: str, *, disk: bool = False, **more: object) -> str:
        """Create a VM; return its id."""
        address = f"10.88.0.{31 + len(self.product.items('/v1/vms'))}"
        body: Json = vm_body(self.product, self._guest, name, address, disk=disk) | more
        created = self.product.post("/v1/vms", body)
        if disk:
            assert self.product.finish(created)["status"] == "succeeded"
        return str(created["id"])

    def start(self, *vms: str) -> None:
        """Start VMs, and wait until they are up."""
        for vm in vms:
            self.product.post(f"/v1/vms/{vm}/start")
        for vm in vms:
            self.product.await_status(f"/v1/vms/{vm}", "up", timeout_s=120)

    def confirm_off(self, host: RealHost) -> None:
        """Vouch that a host which is silent is off."""
        self.product.post(f"/v1/hosts/{host.id}/confirm_off", {"name": host.name})

    def boot(self, host: RealHost) -> None:
        """Give a host power again, and start its agent."""
        host.machine.power_on()
        host.start_agent()
        host.await_up()


@contextlib.contextmanager
def two_hosts(
    workspace: Workspace,
    network: HostNetwork,
    make_host: Callable[[], LibvirtHost],
    guest: Guest,
    *,
    time_scale: float,
    settings: str = "",
    host_of: HostOf = RealHost,
) -> Iterator[Pair]:
    """Start a product with two real hosts that take part in migrations and share a folder."""
    own = SETTINGS.format(address=network.address, port=free_port(), time_scale=time_scale)
    product = Product(workspace, "product", own + settings, hosts=0)
    product.start()
    shared = workspace.make_folder("shared")
    (shared / "storage-id").write_text("one-folder\n")
    hosts: list[RealHost] = []
    try:
        for name in ("kvm01", "kvm02"):
            host = host_of(product, make_host(), name)
            host.storage, host.migrates, host.time_scale = shared, True, time_scale
            if not hosts:
                host.stock(guest)
            host.enrol()
            host.start_agent()
            host.await_up()
            hosts.append(host)
        yield Pair(product, hosts, guest)
    finally:
        product.stop()
