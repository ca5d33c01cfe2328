"""The threads of the host's QEMUs, in the process table. libvirt has QEMU name them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hostagent.libvirt_processes import ProcessTable


class QemuThreads:
    """Where QEMU's threads may run: what the kernel says, and is told."""

    def __init__(self, processes: ProcessTable) -> None:
        self._processes = processes

    def machines(self) -> Mapping[str, int]:
        """Return the pid of each VM's QEMU, by the VM's id; strangers' are left out."""
        return {qemu.uuid: qemu.pid for qemu in self._processes.qemus() if qemu.ours}

    def names(self, pid: int) -> Mapping[int, str]:
        """Return the names of a process's threads, by their ids; none where it is gone."""
        found: dict[int, str] = {}
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found[int(task.name)] = (task / "comm").read_text().strip()
        except OSError:
            pass  # it ended meanwhile: whatever is left is looked at the next time
        return found

    def allowed(self, thread: int) -> frozenset[int] | None:
        """Return the CPUs that a thread may run on; None where it is gone."""
        try:
            return frozenset(os.sched_getaffinity(thread))
        except OSError:
            return None

    def confine(self, thread: int, cpus: frozenset[int]) -> None:
        """Have a thread run on these CPUs alone; raises OSError."""
        os.sched_setaffinity(thread, cpus)
