"""A simulated host in a process of its own, which a BMC (ipmi_sim) turns on and off.

Its agent is a proxy with the real programs of the fence-agents. Run as a program it is that agent:
powered_host.py FOLDER NAME HARDWARE STORAGE SCALE.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import msgspec

from hostagent.fleet import MACHINE_FOLDER, simulated_host
from hostagent.power import FencePrograms
from hostagent.process import AgentProcess, run_agent
from hostagent.simulated import SimulatedDriver
from hostagent.simulated_state import Control, Do
from hostagent.simulated_storage import make_shared_storage
from tests.harness.bmc import Bmc
from tests.harness.processes import run_command, start_process
from tests.harness.workspace import Workspace
from tests.system.product import PROJECT, Product


class PoweredMachine:
    """The machine: on while its agent's process runs, and with nothing left of its VMs after."""

    manager_address = "127.0.0.1"

    def __init__(
        self, workspace: Workspace, number: int, name: str, storage: Path, scale: float
    ) -> None:
        self.number = number
        self.name = name
        self.hardware_id = str(uuid.uuid4())
        self.folder = workspace.make_folder(name)
        self._storage = storage
        self._scale = scale
        self._workspace = workspace
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def power_on(self) -> None:
        if self.on:
            return
        command = [sys.executable, "-m", "tests.system.powered_host", str(self.folder), self.name]
        command += [self.hardware_id, str(self._storage), str(self._scale)]
        self._process = start_process(command, self.folder / "agent.log", folder=PROJECT)
        self._workspace.note_process(self._process.pid)

    def power_off(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None
        machine = self.folder / MACHINE_FOLDER
        SimulatedDriver(machine, name=self.name).control(Control(do=Do.POWER_OFF))


class PoweredHost:
    """The machine, its BMC, and what the product knows of both."""

    def __init__(
        self, product: Product, workspace: Workspace, number: int, storage: Path, scale: float
    ) -> None:
        self.name = f"sim{number:02}"
        self.machine = PoweredMachine(workspace, number, self.name, storage, scale)
        self.bmc = Bmc(workspace, self.machine)
        self.product = product
        body = {"name": self.name, "cluster": product.cluster(), "approved": True}
        self.id = str(product.post("/v1/hosts", body)["id"])

    def join(self) -> None:
        """Join with a token, and boot."""
        folder = self.machine.folder
        token = folder / "token"
        token.write_text(self.product.post(f"/v1/hosts/{self.id}/enrolment_token")["token"])
        words = [sys.executable, "-m", "chronovisor.cli.main", "agent", "join"]
        words += ["--url", self.product.url, "--dir", str(folder), "--token-file", str(token)]
        run_command([*words, "--hardware", self.machine.hardware_id], timeout_s=60)
        self.machine.power_on()
        self.product.await_status(f"/v1/hosts/{self.id}", "up", timeout_s=60)
        self.bmc.start()
        self.product.post(f"/v1/hosts/{self.id}/fence_agents", self.bmc.fence_agent())
        answer = self.product.http.patch(f"/v1/hosts/{self.id}/power", json={"enabled": True})
        assert answer.is_success, answer.text

    @property
    def status(self) -> str:
        return str(self.product.get(f"/v1/hosts/{self.id}")["status"])

    def has_power(self) -> bool:
        """Ask the BMC, past the product."""
        return "is on" in self.bmc.ask("power", "status").stdout

    def stop(self) -> None:
        self.bmc.stop()
        self.machine.power_off()


async def main(folder: Path, name: str, hardware: str, storage: Path, scale: float) -> None:
    setup = simulated_host(
        folder, name=name, hardware=hardware, storage=make_shared_storage(storage, "powered")
    )
    # It takes in no VMs: all hosts are at one address, which answers for those that are off.
    powered = msgspec.structs.replace(setup, power=FencePrograms(), shares_port=False)
    await run_agent(AgentProcess(hosts=[powered], time_scale=scale))


if __name__ == "__main__":
    asyncio.run(
        main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]), float(sys.argv[5]))
    )
