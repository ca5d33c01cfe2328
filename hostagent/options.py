"""How the agent of a real machine is run: as its options say, which lie beside its key."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hostagent.files import read_bounded
from hostagent.fleet import HostSetup
from hostagent.identity import read_hardware_id
from hostagent.power import FencePrograms
from hostagent.process import AgentProcess

OPTIONS_NAME = "options.json"
STORAGE = "storage"
STORAGE_MODE = 0o711
MIGRATION_PORT = 54329


class AgentOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an installed agent is told. `migration` is this host's ADDRESS or ADDRESS:PORT."""

    libvirt: str = "qemu:///system"
    storage: str | None = None
    hardware: str | None = None
    status: str | None = None
    migration: str = ""
    time_scale: float = 1.0


def read_options(folder: Path) -> AgentOptions:
    """Return the options of an installed agent; raises OSError or ValueError."""
    return msgspec.json.decode(read_bounded(folder / OPTIONS_NAME), type=AgentOptions)


def real_agent(
    folder: Path,
    uri: str,
    *,
    storage: Path | None = None,
    hardware: str | None = None,
    time_scale: float = 1.0,
    status: str | None = None,
    migration: str = "",
) -> AgentProcess:
    """Return the process of this machine's agent; VMs' files lie in `storage`."""
    from hostagent.libvirt_driver import LibvirtDriver  # noqa: PLC0415 - needs the extra `host`

    place = storage if storage is not None else folder / STORAGE
    place.mkdir(mode=STORAGE_MODE, parents=True, exist_ok=True)
    setup = HostSetup(
        folder=folder,
        make_driver=lambda: LibvirtDriver(uri, place),
        hardware=hardware if hardware is not None else read_hardware_id(),
        power=FencePrograms(),
        migration_address=_with_port(migration),
    )
    return AgentProcess(hosts=(setup,), time_scale=time_scale, status=status)


def _with_port(address: str) -> str:
    """Return ADDRESS:PORT of an address that may come without its port."""
    has_port = address.rpartition(":")[2].isdigit() and not address.endswith("]")
    return address if not address or has_port else f"{address}:{MIGRATION_PORT}"
