"""The kernel's files on memory: how much is free, and what KSM does. Sizes in bytes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from events.types.host_memory import Swap, swap_of
from hostagent.files import read_bounded
from hostagent.libvirt_samples import meminfo_bytes, memory_bytes, memory_of

KSM_FOLDER = Path("sys/kernel/mm/ksm")
MEMINFO = Path("proc/meminfo")
NUMBER_BYTES_MAX = 64


class HostMemory(msgspec.Struct, frozen=True):
    """The host's whole memory, and how much of it could be given out without swapping."""

    total_bytes: int
    free_bytes: int


class KsmState(msgspec.Struct, frozen=True, kw_only=True):
    """What KSM's files say. `run`: 0 stopped, 1 running, 2 stopped with all pages apart again."""

    run: int
    merge_across_nodes: bool
    pages_to_scan: int
    sleep_ms: int
    pages_shared: int
    pages_sharing: int

    @property
    def saved_bytes(self) -> int:
        """The memory that merged pages would take more if they were apart."""
        return self.pages_sharing * os.sysconf("SC_PAGE_SIZE")


class MemoryFiles:
    """The files under `root`, which is another folder than `/` in tests only."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._meminfo = root / MEMINFO
        self._ksm = root / KSM_FOLDER

    def memory(self) -> HostMemory:
        """Return the host's memory; raises OSError."""
        total, used = memory_bytes(self._meminfo.read_text())
        return HostMemory(total, total - used)

    def swap(self) -> Swap | None:
        """Return what is swapped out; None where the kernel does not tell."""
        try:
            figures = meminfo_bytes(self._meminfo.read_text())
        except OSError:
            return None
        total, used = memory_of(figures)
        swap = figures.get("SwapTotal", 0)
        return swap_of(swap, swap - figures.get("SwapFree", swap), total - used, total)

    def ksm(self) -> KsmState | None:
        """Return what KSM does; None where the kernel has none."""
        try:
            return KsmState(
                run=self._number("run"),
                merge_across_nodes=self._number("merge_across_nodes", 1) == 1,
                pages_to_scan=self._number("pages_to_scan"),
                sleep_ms=self._number("sleep_millisecs"),
                pages_shared=self._number("pages_shared"),
                pages_sharing=self._number("pages_sharing"),
            )
        except (OSError, ValueError):
            return None

    def write_ksm(self, name: str, value: int) -> None:
        """Write one of KSM's files; raises OSError."""
        file = os.open(self._ksm / name, os.O_WRONLY | os.O_TRUNC)  # never makes one
        try:
            os.write(file, str(value).encode())
        finally:
            os.close(file)

    def _number(self, name: str, default: int | None = None) -> int:
        try:
            return int(read_bounded(self._ksm / name, bytes_max=NUMBER_BYTES_MAX))
        except FileNotFoundError:
            if default is None:  # a kernel without NUMA has no merge_across_nodes
                raise
            return default
