"""A host's BMC: ipmi_sim on loopback, whose chassis script pulls the plug of a test host.

The host and its BMC share no power: the BMC answers while the host is off. `lying` is a BMC that
says what it was told to do and does nothing; `kill` is one without power.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Protocol

from tests.harness.processes import (
    HarnessError,
    run_command,
    start_process,
    tail,
    wait_until,
)
from tests.harness.workspace import Workspace

USER, PASSWORD = "admin", "plug-and-pray"
POLL_S = 0.02
_CONFIGURATION = """name "{name}"
set_working_mc 0x20
  startlan 1
    addr {address} {port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid {guid}
  endlan
  chassis_control "{script} 0x20"
  user 1 true "" "none" user 10 none md2 md5 straight
  user 2 true "{user}" "{password}" admin 10 none md2 md5 straight
"""
_EMULATOR = """mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
mc_enable 0x20
"""
_SCRIPT = """#!/bin/sh
# The chassis: what is asked of it goes to the test by files, which answers by files.
# SCRIPT MC get PARAMETER... | SCRIPT MC set PARAMETER VALUE...
folder={folder}
mc=$1 operation=$2
shift 2
if [ "$operation" = get ]; then
  for parameter; do
    value=0
    if [ "$parameter" = power ]; then value=$(cat "$folder/power"); fi
    echo "$parameter:$value"
  done
  exit 0
fi
while [ $# -ge 2 ]; do
  if [ "$1" = power ]; then
    echo "$2" >"$folder/wanted.new" && mv "$folder/wanted.new" "$folder/wanted"
    tries=0
    while [ -e "$folder/wanted" ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
  fi
  shift 2
done
"""


class Switched(Protocol):
    """A machine that a BMC turns on and off; the BMC listens at the manager's address."""

    number: int
    hardware_id: str

    @property
    def manager_address(self) -> str:
        """Where the BMC listens."""
        ...

    def power_on(self) -> None:
        """Boot."""
        ...

    def power_off(self) -> None:
        """Lose the power at once."""
        ...


class Bmc:
    """One BMC. `on_boot` is called, from a thread, whenever it has turned its host on.

    A second one of a host has another `name`.
    """

    def __init__(
        self,
        workspace: Workspace,
        machine: Switched,
        on_boot: Callable[[], None] = lambda: None,
        *,
        name: str = "bmc",
    ) -> None:
        self.machine = machine
        self.name = name
        self.address = machine.manager_address
        self.port = (9_000 if name == "bmc" else 9_300) + machine.number
        self.folder = workspace.make_folder(f"{name}{machine.number}")
        self.lies = False
        self.turned_off = 0
        self._workspace = workspace
        self._on_boot = on_boot
        self._log = self.folder / "ipmi_sim.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._chassis = threading.Thread(target=self._serve, daemon=True)
        self._lay_out()

    def fence_agent(self) -> dict[str, object]:
        """The body that tells the product of it."""
        return {
            "agent": self.name,
            "type": "ipmilan",
            "address": self.address,
            "port": self.port,
            "username": USER,
            "password": PASSWORD,
            "options": "lanplus=1,cipher=3",
        }

    def _lay_out(self) -> None:
        script = self.folder / "chassis"
        script.write_text(_SCRIPT.format(folder=self.folder))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self._say_power(on=True)
        (self.folder / "lan.conf").write_text(
            _CONFIGURATION.format(
                name=f"bmc{self.machine.number}",
                address=self.address,
                port=self.port,
                guid=self.machine.hardware_id.replace("-", ""),
                script=script,
                user=USER,
                password=PASSWORD,
            )
        )
        (self.folder / "emulator").write_text(_EMULATOR)
        (self.folder / "state").mkdir(exist_ok=True)

    def start(self) -> None:
        """Give the BMC power, and wait until it answers."""
        program = shutil.which("ipmi_sim")
        if program is None:
            raise HarnessError("ipmi_sim is missing: see tests/install/debian.sh")
        self._process = start_process(
            [
                *(program, "-n", "-c", str(self.folder / "lan.conf")),
                *("-f", str(self.folder / "emulator"), "-s", str(self.folder / "state")),
            ],
            self._log,
        )
        self._workspace.note_process(self._process.pid)
        if not self._chassis.is_alive():
            self._chassis.start()
        wait_until(
            lambda: self.ask("power", "status").returncode == 0,
            20,
            "the BMC to answer",
            detail=lambda: tail(self._log),
        )

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Ask the BMC something with ipmitool, as nobody of the product does."""
        return run_command(
            [
                *("ipmitool", "-I", "lanplus", "-C", "3", "-H", self.address),
                *("-p", str(self.port), "-U", USER, "-P", PASSWORD, "chassis", *words),
            ],
            check=False,
        )

    def pull_plug(self) -> None:
        """Pull the plug of the host, past its BMC, which sees that there is no power."""
        self.machine.power_off()
        self._say_power(on=False)

    def kill(self) -> None:
        """Take the BMC's power away; the host keeps its own."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it."""
        self.kill()
        self._stopping.set()
        if self._chassis.is_alive():
            self._chassis.join(30)

    def _serve(self) -> None:
        """Do what the chassis script asks for."""
        wanted = self.folder / "wanted"
        while not self._stopping.is_set():
            if wanted.exists():
                on = wanted.read_text().strip() == "1"
                try:
                    self._switch(on=on)
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        wanted.unlink()
                if on and not self.lies:
                    self._on_boot()
            time.sleep(POLL_S)

    def _switch(self, *, on: bool) -> None:
        if self.lies:
            self._say_power(on=on)
            return
        if on:
            self._say_power(on=True)
            self.machine.power_on()
        else:
            self.turned_off += 1
            self.machine.power_off()
            self._say_power(on=False)

    def _say_power(self, *, on: bool) -> None:
        """Let the BMC say that the host is on or off, true or not."""
        (self.folder / "power.new").write_text("1\n" if on else "0\n")
        (self.folder / "power.new").rename(self.folder / "power")
