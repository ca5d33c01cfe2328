"""A real libvirt host that is a host of the product: enrolled, with its own agent process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.harness.guest import Guest
from tests.harness.libvirt_host import HostProcess, LibvirtHost
from tests.harness.processes import wait_until
from tests.system.product import PROJECT, Json, Product

MIB = 1024**2
KERNEL, INITRD, IMAGE = "vmlinuz", "initrd.img", "base.qcow2"


class RealHost:
    """The machine, its state folder, its agent."""

    def __init__(self, product: Product, machine: LibvirtHost, name: str) -> None:
        self.product = product
        self.machine = machine
        self.name = name
        self.state = machine.folder / "agent"
        self.storage = machine.folder / "storage"
        self.id = ""
        self.time_scale = 1.0
        self.migrates = False
        self._agent: HostProcess | None = None

    def stock(self, guest: Guest) -> None:
        """Put the guest's kernel, initrd and image into the storage folder."""
        self.storage.mkdir(exist_ok=True)
        shutil.copy(guest.kernel, self.storage / KERNEL)
        shutil.copy(guest.initrd, self.storage / INITRD)
        shutil.copy(guest.base_disk, self.storage / IMAGE)

    def enrol(self) -> None:
        """Announce the host and have the machine join, as an admin would by hand."""
        product = self.product
        product.ignore_cpu_load()
        body = {"name": self.name, "cluster": product.cluster()}
        self.id = product.post("/v1/hosts", body)["id"]
        token = self.machine.folder / "token"
        token.write_text(product.post(f"/v1/hosts/{self.id}/enrolment_token")["token"])
        joining = self.machine.launch(
            self._cli(
                *("agent", "join", "--url", product.url, "--dir", self.state),
                *("--token-file", token, "--hardware", self.machine.hardware_id),
            ),
            self.machine.folder / "join.log",
            folder=PROJECT,
        )
        product.await_status(f"/v1/hosts/{self.id}", "pending_approval")
        product.post(f"/v1/hosts/{self.id}/approve")
        assert joining.wait(60) == 0, (self.machine.folder / "join.log").read_text()
        token.unlink()

    def start_agent(self) -> None:
        """Start the agent inside of the machine."""
        self._agent = self.machine.launch(
            self._cli(
                *("agent", "run", "--dir", self.state, "--storage", self.storage),
                *("--libvirt", "qemu:///system", "--hardware", self.machine.hardware_id),
                *(("--migration", self.machine.address) if self.migrates else ()),
            ),
            self.agent_log,
            folder=PROJECT,
            environment={"CHRONOVISOR_TIME_SCALE": str(self.time_scale)},
        )

    @property
    def agent_log(self) -> Path:
        """Where the agent logs."""
        return self.machine.folder / "agent.log"

    @property
    def agent(self) -> HostProcess:
        """The agent's process."""
        assert self._agent is not None
        return self._agent

    def await_up(self) -> None:
        """Wait until the product says that the host is up."""
        self.product.await_status(f"/v1/hosts/{self.id}", "up", timeout_s=60)

    def ping(self, address: str) -> bool:
        """Tell whether a guest on the host's bridge answers."""
        try:
            answer = self.machine.run(["ping", "-c", "1", "-W", "1", address], check=False)
        except subprocess.SubprocessError:
            return False
        return answer.returncode == 0

    def qemu(self, vm: str) -> int:
        """Return the process id of a VM's QEMU; fails where it does not run."""
        pids = self.machine.qemu_pids()
        assert vm in pids, f"{vm} does not run on {self.name}: {pids}"
        return pids[vm]

    def await_gone(self, vm: str) -> None:
        """Wait until no QEMU of a VM is left."""
        wait_until(lambda: vm not in self.machine.qemu_pids(), 30, what=f"QEMU of {vm} to be gone")

    def _cli(self, *words: str | Path) -> list[str | Path]:
        return [sys.executable, "-m", "chronovisor.cli.main", *words]


def vm_body(
    product: Product, guest: Guest, name: str, address: str, *, disk: bool, scribble_mib: int = 0
) -> Json:
    """Return the body that creates a VM with the tests' guest."""
    command_line = guest.command_line(
        name, ip4=f"{address}/24", stamp=disk, scribble_mib=scribble_mib
    )
    body: Json = {
        "name": name,
        "cluster": product.cluster(),
        "memory_bytes": 128 * MIB,
        "nics": [{"bridge": "br0"}],
        "boot": {
            "kernel": KERNEL,
            "initrd": INITRD,
            "command_line": command_line,
        },
    }
    if disk:
        body["disks"] = [{"size_bytes": 256 * MIB, "image": IMAGE}]
    return body
