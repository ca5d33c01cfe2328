"""What makes a machine of the tests look like another distribution, and its firewall."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.harness.processes import wait_until

RELEASES = {
    "debian": 'ID=debian\nPRETTY_NAME="Debian"\n',
    "el": 'ID="almalinux"\nID_LIKE="rhel centos fedora"\nPRETTY_NAME="AlmaLinux 9"\n',
}
"""What /etc/os-release says, by family."""


class Run(Protocol):
    """Runs a command on a machine to its end."""

    def __call__(
        self, command: list[str], *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Return how it ended."""
        ...


def pretend_to_be(run: Run, family: str) -> None:
    """Have a machine say that it is of a family: debian or el."""
    run(["sh", "-c", f"rm /etc/os-release; printf '{RELEASES[family]}' >/etc/os-release"])


def start_firewalld(run: Run, launch: Callable[[list[str], Path], object], folder: Path) -> None:
    """Start the real firewalld on a machine, with a bus of its own; logs lie in `folder`."""
    place = "/run/dbus"

    def succeeds(*command: str) -> bool:
        return run(list(command), check=False).returncode == 0

    run(["sh", "-c", f"mkdir -p {place}; rm -f {place}/pid {place}/*socket"])
    launch(["dbus-daemon", "--system", "--nofork", "--nopidfile"], folder / "bus.log")
    wait_until(lambda: succeeds("test", "-S", f"{place}/system_bus_socket"), 10, "a bus")
    log = folder / "firewalld.log"
    launch(["firewalld", "--nofork", "--nopid", "--log-target", "console"], log)
    asking = ("firewall-cmd", "--quiet", "--state")
    wait_until(lambda: succeeds(*asking), 30, "firewalld", detail=log.read_text)
