"""A machine without a hypervisor: namespaces with files of their own, and a real package manager.

It starts in a moment, for what only installs packages or opens a firewall's port.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.harness.distribution import pretend_to_be, start_firewalld
from tests.harness.libvirt_host import FILES
from tests.harness.package_repository import INSTALLED, make_repository
from tests.harness.processes import children, run_command, start_process, wait_until
from tests.harness.workspace import Workspace

PLACES = ("etc", "root", "run", "usr", "var/cache", "var/lib", "var/log")


class BareMachine:
    """The machine; `family` is debian or el."""

    def __init__(self, workspace: Workspace, family: str) -> None:
        self.folder = workspace.make_folder("bare")
        self.family = family
        self._workspace = workspace
        self._process: subprocess.Popen[bytes] | None = None
        self._launched: list[subprocess.Popen[bytes]] = []
        self._pid = 0

    def start(self) -> None:
        """Make it."""
        repository = make_repository(self.folder / "repository", self.family)
        namespaces = ("--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
        self._process = start_process(
            ["unshare", *namespaces, "tini", "--", "sleep", "infinity"], self.folder / "log"
        )
        self._workspace.note_process(self._process.pid)
        unshared = self._process.pid
        self._pid = wait_until(lambda: next(iter(children(unshared)), 0), 10, "the machine")
        wait_until(lambda: children(self._pid), 10, "the machine's first process")
        self.run(["mount", "--make-rprivate", "/"])
        layers = [str(FILES / "real_packages.sh"), str(self.folder), self.family, str(repository)]
        self.run([*layers, *PLACES])
        pretend_to_be(self.run, self.family)
        self.run(["ip", "link", "set", "lo", "up"])

    def stop(self) -> None:
        """End all that runs on it."""
        if self._process is None:
            return
        self._process.kill()
        for process in (self._process, *self._launched):
            process.wait(10)

    def run(self, command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on it to its end."""
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--net", "--pid"]
        return run_command([*enter, *command], timeout_s=60, check=check)

    def launch(self, command: list[str], log: Path) -> None:
        """Start a program on it that stays as long as the machine."""
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--net", "--pid"]
        process = start_process([*enter, *command], log)
        self._workspace.note_process(process.pid)
        self._launched.append(process)

    def start_firewalld(self) -> None:
        """Start the real firewalld, with a bus of its own."""
        start_firewalld(self.run, self.launch, self.folder)

    def installed(self) -> set[str]:
        """Return the names of the packages that its package manager knows as installed."""
        return set(self.run(["sh", "-c", INSTALLED[self.family]], check=False).stdout.split())
