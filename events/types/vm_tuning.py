"""How a VM's processors and memory lie on those of its host.

Sets of CPUs and of NUMA nodes are written as the kernel writes them: `0-3,8`.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable

import msgspec


class NumaMode(enum.StrEnum):
    """How a guest's NUMA node takes memory of the host's, in libvirt's words."""

    STRICT = "strict"
    PREFERRED = "preferred"
    INTERLEAVE = "interleave"


class CpuPolicy(enum.StrEnum):
    """Which CPUs of its host a VM runs on, in oVirt's words."""

    NONE = "none"  # those that it is pinned to, or any that are no other VM's own
    DEDICATED = "dedicated"  # each virtual CPU has one of its own
    ISOLATE_THREADS = "isolate_threads"  # each has a core of its own, and one thread of it to run


class CpuPin(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual CPU, by its number, and the CPUs of the host that it may run on."""

    vcpu: int
    cpus: str


class Dedicated(msgspec.Struct, frozen=True, kw_only=True):
    """CPUs of a host that are a VM's alone, and on which of them each of its virtual CPUs runs."""

    pins: tuple[CpuPin, ...]
    cpus: str


class GuestNumaNode(msgspec.Struct, frozen=True, kw_only=True):
    """A NUMA node that the guest sees: its virtual CPUs and its memory.

    `host_nodes` are the host's nodes that the memory is taken of, by `mode`; "" leaves it open.
    """

    vcpus: str
    memory_bytes: int
    host_nodes: str = ""
    mode: NumaMode = NumaMode.STRICT


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of it. `huge_page_bytes`: all memory is taken of huge pages of that size.

    With another `cpu_policy` than none it is not pinned: its CPUs are chosen with its host.

    `high_performance`: it gets a host with as many sockets, cores and threads where one is left,
    and moves only to hosts whose time-stamp counter runs as fast.
    """

    pins: tuple[CpuPin, ...] = ()
    numa_nodes: tuple[GuestNumaNode, ...] = ()
    huge_page_bytes: int | None = None
    high_performance: bool = False
    cpu_policy: CpuPolicy = CpuPolicy.NONE


UNTUNED = Tuning()


def members(text: str) -> frozenset[int]:
    """Return the numbers of a set such as `0-3,8`; "" has none. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def spelled(numbers: Iterable[int]) -> str:
    """Return numbers as a set such as `0-3,8`, each once and in order."""
    found = []
    places = enumerate(sorted(set(numbers)))
    for _, group in itertools.groupby(places, lambda place: place[1] - place[0]):
        run = [number for _, number in group]
        found.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(found)
