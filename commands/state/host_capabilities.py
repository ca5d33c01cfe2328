"""What is kept in memory of a host's hardware: thousands of hosts describe theirs at length.

The whole description is in the log and in the inventory; decisions look at a few flags, and at how
processors and memory lie.
"""

from __future__ import annotations

import hashlib

import msgspec

from events.types.host import Capabilities
from events.types.host_hardware import Hardware

DECIDING_FLAGS = frozenset({"nx", "svm", "vmx"})
"""The CPU flags that decisions look at."""


def kept(capabilities: Capabilities) -> Capabilities:
    """Return what a host reports without what no decision looks at."""
    if capabilities.hardware is None:
        return capabilities
    flags = tuple(flag for flag in capabilities.hardware.cpu_flags if flag in DECIDING_FLAGS)
    # A host whose flags are known has some; that it has none of these must be told from not known.
    shown = flags or capabilities.hardware.cpu_flags[:1]
    hardware = capabilities.hardware
    return msgspec.structs.replace(
        capabilities,
        hardware=Hardware(
            cpu_flags=shown,
            tsc_hz=hardware.tsc_hz,
            topology=hardware.topology,
            cores=hardware.cores,
            numa_nodes=hardware.numa_nodes,
            huge_pages=hardware.huge_pages,
        ),
    )


def digest(capabilities: Capabilities) -> str:
    """Return the SHA-256 (hex) of a host's hardware, "" where it reports none."""
    if capabilities.hardware is None:
        return ""
    return hashlib.sha256(msgspec.json.encode(capabilities.hardware)).hexdigest()
