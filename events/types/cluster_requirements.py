"""What a cluster asks of its hosts beyond CPU model, machine type and compatibility version."""

from __future__ import annotations

import enum

import msgspec

MEMORY_MIN_BYTES = 2_000_000_000
"""The least memory of a host, if nothing else is said: oVirt asks for 2 GB."""
MEMORY_MAX_BYTES = 4 * 1024**4
"""The most memory of a host, if nothing else is said when its cluster is made: as in oVirt, 4 TB,
the memory modules' kind of TB.
"""


class FirewallType(enum.StrEnum):
    """Which firewall an installation over SSH opens the migration port in.

    `auto`: whichever is active; `none`: it leaves all of them alone.
    """

    AUTO = "auto"
    FIREWALLD = "firewalld"
    NFTABLES = "nftables"
    NONE = "none"


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """What each host must have. `emulation`: QEMU's TCG will do where there is no KVM.

    Clusters from before there was a `memory_max_bytes` have no such limit. `bridges` are those that
    each host must have, such as the management network's.
    """

    emulation: bool = True
    memory_min_bytes: int = MEMORY_MIN_BYTES
    memory_max_bytes: int | None = None
    bridges: tuple[str, ...] = ()
