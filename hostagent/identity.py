"""Which host this is, on which machine, in which of its boots."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
HARDWARE_PATHS = (
    Path("/sys/class/dmi/id/product_uuid"),
    Path("/etc/machine-id"),
    Path("/var/lib/dbus/machine-id"),
)
_MEANINGLESS = frozenset({"", "uninitialized", "03000200-0400-0500-0006-000700080009"})


class UnknownMachineError(Exception):
    """Nothing on this machine tells it from others."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The host's id in Chronovisor, the machine's hardware id, and the id of its present boot."""

    host: str
    name: str
    hardware: str
    boot: str


def read_boot_id(path: Path = BOOT_ID_PATH) -> str:
    """Return the id of the machine's present boot; OSError where there is none."""
    boot = path.read_text().strip()
    if not boot:
        raise OSError(f"{path} is empty")
    return boot


def read_hardware_id(paths: tuple[Path, ...] = HARDWARE_PATHS) -> str:
    """Return what tells this machine from others: its DMI UUID, else a hash of its machine id.

    Raises UnknownMachineError if there is neither; then one has to be given.
    """
    for path in paths:
        try:
            text = path.read_text().strip().lower()
        except OSError:
            continue
        if text in _MEANINGLESS or set(text) <= set("0-"):
            continue
        if path.name == "machine-id":
            # A machine's id is confidential (machine-id(5)), so that only a hash is given away.
            return hashlib.sha256(f"chronovisor:{text}".encode()).hexdigest()
        return text
    raise UnknownMachineError(
        "this machine has neither a DMI UUID nor a machine id; give it a hardware id"
    )
