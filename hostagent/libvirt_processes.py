"""QEMU in the process table: what really runs, whatever libvirt may say."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from pathlib import Path

import msgspec

QEMU_PREFIX = "qemu-system"
INCARNATION_WORD = "chronovisor.incarnation="


class Qemu(msgspec.Struct, frozen=True, kw_only=True):
    """A QEMU that runs a VM. `booted_incarnation` is the one of our OEM strings, 0 if there are
    none; a restored guest keeps the strings of the run in which it booted.
    """

    pid: int
    uuid: str
    booted_incarnation: int = 0

    @property
    def ours(self) -> bool:
        """Whether Chronovisor's XML started it."""
        return self.booted_incarnation > 0


def as_qemu(pid: int, words: list[str]) -> Qemu | None:
    """Return the VM of a command line; None for any other program, and for the QEMUs that libvirt
    asks for their abilities, which have no uuid.
    """
    if not words or not Path(words[0]).name.startswith(QEMU_PREFIX):
        return None
    uuid, incarnation = "", 0
    for option, value in itertools.pairwise(words):
        if option == "-uuid":
            uuid = value
        elif option == "-smbios" and INCARNATION_WORD in value:
            number = value.split(INCARNATION_WORD, 1)[1].split(",", 1)[0]
            incarnation = int(number) if number.isdecimal() else 0
    return Qemu(pid=pid, uuid=uuid, booted_incarnation=incarnation) if uuid else None


class ProcessTable:
    """The processes of the host: of this process's namespace, or, for one that looks at a host
    from outside of its namespaces, those that share them with `host_process` (a pid).
    """

    def __init__(self, host_process: int | None = None) -> None:
        self._proc = Path("/proc")
        self._host_process = host_process

    @property
    def of_host(self) -> Path:
        """The folder of a process of the host, whose `net` and `root` are the host's."""
        return self._proc / str(self._host_process or "self")

    def qemus(self) -> list[Qemu]:
        """Return every QEMU with a VM on the host."""
        pids = (entry.name for entry in self._proc.iterdir() if entry.name.isdecimal())
        found = (as_qemu(int(pid), self._command_line(pid)) for pid in pids)
        return [qemu for qemu in found if qemu is not None and self._on_host(qemu.pid)]

    def of_vm(self, uuid: str) -> list[Qemu]:
        """Return the processes that run a VM: one, or none."""
        return [qemu for qemu in self.qemus() if qemu.uuid == uuid]

    def kill(self, qemu: Qemu) -> None:
        """Kill a QEMU and nothing else: the pid is held while it is looked at once more."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(qemu.pid)
            try:
                if as_qemu(qemu.pid, self._command_line(str(qemu.pid))) == qemu:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)

    def _command_line(self, pid: str) -> list[str]:
        """A process's arguments; none for one that is gone, a zombie or a kernel thread."""
        try:
            raw = (self._proc / pid / "cmdline").read_bytes()
        except OSError:
            return []
        return [word.decode(errors="replace") for word in raw.split(b"\0")[:-1]]

    def _on_host(self, pid: int) -> bool:
        if self._host_process is None:
            return True
        try:
            namespaces = {
                (self._proc / str(each) / "ns" / "pid").readlink()
                for each in (pid, self._host_process)
            }
        except OSError:
            return False
        return len(namespaces) == 1
