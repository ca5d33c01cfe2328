"""Two real hosts with BMCs that switch them, and a highly available VM: fencing's test bench."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from chronovisor.installation import Installation
from tests.harness.bmc import PASSWORD, Bmc
from tests.harness.guest import Guest
from tests.harness.libvirt_host import HostProcess, LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import HarnessError, free_port, wait_until
from tests.harness.stamps import assert_single_writer, read_stamps
from tests.harness.workspace import Workspace
from tests.system.product import Json, Product
from tests.system.real_host import RealHost, vm_body

SCALE = 0.1
SETTINGS = """
time_scale = 0.1
[api]
host = "{address}"
[gateway]
host = "{address}"
port = {port}
[hosts]
grace_s = 60
[fencing]
kdump_port = {kdump_port}
"""
KDUMP_SEND = Path("/usr/libexec/fence-agents/fence_kdump_send")
"""What a crashed kernel's host runs to tell of its dump: of Debian's fence-agents."""
SILENT_S = 6.0
"""How long a host may be silent, with these settings."""
LOOK_S = 0.05
VM_ADDRESS = "10.88.0.41"


class FencedHost(RealHost):
    """A real host that its BMC turns on and off, and whose agent starts when it boots."""

    def __init__(
        self, product: Product, machine: LibvirtHost, name: str, workspace: Workspace
    ) -> None:
        super().__init__(product, machine, name)
        self.time_scale = SCALE
        self.migrates = True
        self.bmc = Bmc(workspace, machine, self.start_agent)

    def crash(self) -> None:
        """Let its kernel crash: all that ran is gone, and the crash kernel is there, with no agent.

        Its power stays on all the time, as its BMC says.
        """
        self.machine.power_off()
        self.machine.power_on()

    def say_dump(self, port: int) -> HostProcess:
        """Have the real program say, from now on, that a dump is written."""
        return self.machine.launch(
            [KDUMP_SEND, "-p", str(port), "-i", "1", self.machine.manager_address],
            self.machine.folder / "kdump.log",
        )

    def manage(self, secret: Path, *, kdump: bool = False) -> None:
        """Tell the product of the BMC, as an admin would with a file that holds the password."""
        secret.write_text(PASSWORD + "\n")
        self.product.post(f"/v1/hosts/{self.id}/fence_agents", self.bmc.fence_agent())
        answer = self.product.http.patch(
            f"/v1/hosts/{self.id}/power", json={"enabled": True, "kdump_detection": kdump}
        )
        assert answer.is_success, answer.text


class Rig:
    """The product, its two hosts, and one VM. `copies_max` is the most that ran at a time."""

    def __init__(self, product: Product, hosts: list[FencedHost], guest: Guest) -> None:
        self.product = product
        self.hosts = hosts
        self.copies_max = 0
        self.vm = ""
        self._guest = guest
        self._watching = threading.Event()
        self._watch = threading.Thread(target=self._count, daemon=True)

    def begin(self) -> None:
        """Have the VM up, highly available, with a disk on which it stamps."""
        body = vm_body(self.product, self._guest, "web01", VM_ADDRESS, disk=True)
        body["high_availability"] = {"enabled": True, "priority": 50}
        created = self.product.post("/v1/vms", body)
        assert self.product.finish(created)["status"] == "succeeded"
        self.vm = str(created["id"])
        begun = self.product.post(f"/v1/vms/{self.vm}/start", Prefer="wait=60")
        assert self.product.finish(begun)["status"] == "succeeded"
        self.product.await_status(f"/v1/vms/{self.vm}", "up")
        self._await_stamps(0)
        self._watch.start()
        wait_until(lambda: self.copies_max == 1, 60, "the VM to be counted")

    def end(self) -> None:
        """Stop counting."""
        self._watching.set()
        if self._watch.is_alive():
            self._watch.join(10)

    @property
    def first(self) -> FencedHost:
        """The host on which the VM runs, as the product says."""
        name = self.product.get(f"/v1/vms/{self.vm}")["host"]["name"]
        return next(host for host in self.hosts if host.name == name)

    def other(self, host: FencedHost) -> FencedHost:
        """The other host."""
        return next(each for each in self.hosts if each is not host)

    def names(self) -> list[str]:
        """Return the names of all events in the log."""
        with psycopg.connect(Installation.open(self.product.root).dsn()) as connection:
            rows = connection.execute("select name from log.log order by position").fetchall()
        return [row[0] for row in rows]

    def await_event(self, name: str, timeout_s: float = 60) -> None:
        """Wait until an event is in the log."""
        wait_until(lambda: name in self.names(), timeout_s, name, detail=self.product.last_words)

    def fencing(self) -> Json:
        """Return the newest operation that fences a host."""
        found = self.product.items("/v1/operations", limit="100")
        return next(each for each in found if each["kind"] == "host.fence")

    def await_restart(self, host: FencedHost, timeout_s: float = 120) -> Json:
        """Wait until the VM is up on a host, in another run than the first."""
        seen: Json = {}

        def there() -> bool:
            nonlocal seen
            seen = self.product.get(f"/v1/vms/{self.vm}")
            where = (seen.get("host") or {}).get("name")
            return seen["status"] == "up" and where == host.name

        wait_until(
            there,
            timeout_s,
            f"the VM to be up on {host.name}",
            detail=lambda: f"{seen}\n{self.fencing()}\n{self.product.last_words()}",
        )
        return seen

    def require_one_copy(self) -> None:
        """Require that never two copies ran, and that one wrote to the disk at a time."""
        assert self.copies_max == 1
        self._await_stamps(len(read_stamps(self.disk)))
        self.product.post(f"/v1/vms/{self.vm}/stop", Prefer="wait=30")
        self.product.await_status(f"/v1/vms/{self.vm}", "down")
        assert_single_writer(read_stamps(self.disk))

    @property
    def disk(self) -> Path:
        """The VM's disk, in the folder that both hosts share."""
        (found,) = [path for path in self.hosts[0].storage.glob("*/*") if path.suffix == ".qcow2"]
        return found

    def _await_stamps(self, before: int) -> None:
        """Wait until the VM has written to its disk."""
        wait_until(
            lambda: len(read_stamps(self.disk)) > before + 3, 60, "new stamps", interval_s=0.3
        )

    def _count(self) -> None:
        while not self._watching.is_set():
            count = 0
            for host in self.hosts:
                try:
                    if host.machine.on:
                        count += self.vm in host.machine.qemu_pids()
                except (HarnessError, OSError):
                    continue  # it was turned off at this moment
            self.copies_max = max(self.copies_max, count)
            time.sleep(LOOK_S)


@contextlib.contextmanager
def fenced_pair(
    workspace: Workspace,
    network: HostNetwork,
    make_libvirt_host: Callable[[], LibvirtHost],
    guest: Guest,
    *,
    kdump_port: int = 0,
    idle: bool = False,
) -> Iterator[Rig]:
    """Two real hosts with BMCs, and a highly available VM that runs on one of them.

    `idle` ones have no VM, and take in none: so nothing listens there that a proxy could see.
    """
    settings = SETTINGS.format(address=network.address, port=free_port(), kdump_port=kdump_port)
    product = Product(workspace, "product", settings, hosts=0)
    product.start()
    shared = workspace.make_folder("shared")
    (shared / "storage-id").write_text("one-folder\n")
    hosts: list[FencedHost] = []
    rig = Rig(product, hosts, guest)
    try:
        for name in ("kvm01", "kvm02"):
            host = FencedHost(product, make_libvirt_host(), name, workspace)
            hosts.append(host)
            host.storage, host.migrates = shared, not idle
            if len(hosts) == 1:
                host.stock(guest)
            host.enrol()
            host.start_agent()
            host.await_up()
            host.bmc.start()
            host.manage(workspace.make_folder("secret") / "bmc", kdump=bool(kdump_port))
        if not idle:
            rig.begin()
        yield rig
    finally:
        rig.end()
        for host in hosts:
            host.bmc.stop()
        product.stop()
