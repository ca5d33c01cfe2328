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


class Ksm(msgspec.Struct, frozen=True, kw_only=True):
    """What the host's kernel says of merging equal pages. `saved_bytes` is what it saves now.

    `problem` says what the kernel refused, if anything.
    """

    running: bool
    merge_across_nodes: bool
    saved_bytes: int = 0
    problem: str = ""
