"""What processes cost: memory and processor time, read from /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from chronovisor.supervisor import read_status

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME, _PARENT = 11, 12, 1  # counted behind the name, which may hold blanks


def descendants(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[_PARENT])].append(int(entry.name))
    found = [pid]
    for one in found:
        found += children[one]
    return found


def memory_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants; what they share is divided (PSS)."""
    return sum(_pss_bytes(one) for one in descendants(pid))


def processor_s(pid: int) -> float:
    """Return the processor time that a process and its living descendants took so far."""
    ticks = 0
    for one in descendants(pid):
        fields = _stat(one)
        ticks += int(fields[_UTIME]) + int(fields[_STIME]) if fields else 0
    return ticks / CLOCK_TICKS


def part_pids(folder: Path) -> dict[str, int]:
    """Return the process of each part that a supervisor runs in a folder, and its own."""
    status = read_status(folder)
    assert status is not None, f"nothing runs in {folder}"
    parts = {part.name: part.pid for part in status.parts if part.pid is not None}
    return {**parts, "supervisor": status.pid}


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
