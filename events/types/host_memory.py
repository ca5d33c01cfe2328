"""How a host shares out its memory among VMs: what it is told to do, and what it says of it."""

from __future__ import annotations

import msgspec


class MemoryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a host does where its memory runs short, by its cluster's settings.

    `ksm`: equal pages of VMs are merged, also across NUMA nodes with `merge_across_nodes`.
    `ballooning`: memory is taken back from guests, down to what each is guaranteed.
    """

    ksm: bool = False
    merge_across_nodes: bool = True
    ballooning: bool = False


SWAP_PRESSURE_LEAST = -5
"""The least `pressure_percent`: anything below shows as this."""


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """How much swap a host has, and uses.

    `pressure_percent` is what it has swapped out less the memory that is free, in percent of its
    memory: above 0 it could not take all of it back in.
    """

    total_bytes: int
    used_bytes: int = 0
    pressure_percent: int = SWAP_PRESSURE_LEAST


def swap_of(total_bytes: int, used_bytes: int, memory_free_bytes: int, memory_bytes: int) -> Swap:
    """Return what a host's figures come to."""
    pressure = (used_bytes - memory_free_bytes) * 100 // max(1, memory_bytes)
    return Swap(
        total_bytes=total_bytes,
        used_bytes=used_bytes,
        pressure_percent=max(SWAP_PRESSURE_LEAST, pressure),
    )


class Ksm(msgspec.Struct, frozen=True, kw_only=True):
    """What the host's kernel says of merging equal pages. `saved_bytes` is what it saves now.

    `problem` says what the kernel refused, if anything.
    """

    running: bool
    merge_across_nodes: bool
    saved_bytes: int = 0
    problem: str = ""
