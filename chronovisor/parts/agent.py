"""A real host's agent process, through libvirt."""

from __future__ import annotations

import asyncio
from pathlib import Path

from chronovisor.installation import Installation
from chronovisor.settings import SettingsError
from hostagent.fleet import HostSetup
from hostagent.identity import read_hardware_id
from hostagent.process import AgentProcess, run_agent

STORAGE = "storage"
MIGRATION_PORT = 54329


async def run(
    installation: Installation, stop: asyncio.Event, host: Path | None, uri: str | None
) -> None:
    """Be the agent of this machine until `stop`; its VMs run on."""
    if host is None or uri is None:
        message = "the agent needs --host (its state folder) and --libvirt (a URI)"
        raise SettingsError(message)
    process = real_agent(
        host,
        uri,
        time_scale=installation.settings.time_scale,
        status=str(installation.folder.agent_socket),
    )
    await run_agent(process, stop)


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
    place.mkdir(mode=0o711, parents=True, exist_ok=True)
    setup = HostSetup(
        folder=folder,
        make_driver=lambda: LibvirtDriver(uri, place),
        hardware=hardware if hardware is not None else read_hardware_id(),
        migration_address=_with_port(migration),
    )
    return AgentProcess(hosts=(setup,), time_scale=time_scale, status=status)


def _with_port(address: str) -> str:
    """Return ADDRESS:PORT of an address that may come without its port."""
    has_port = address.rpartition(":")[2].isdigit() and not address.endswith("]")
    return address if not address or has_port else f"{address}:{MIGRATION_PORT}"
