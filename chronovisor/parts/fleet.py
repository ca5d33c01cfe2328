"""The simulated hosts' process: one agent process that stands for many hosts."""

from __future__ import annotations

import asyncio

from chronovisor.installation import Installation
from hostagent.fleet import simulated_host
from hostagent.process import AgentProcess, run_agent
from hostagent.simulated_storage import make_shared_storage

SIMULATED = "simulated"
STORAGE = "simulated-storage"


def simulated_hardware(name: str) -> str:
    """Return the hardware id of a simulated machine."""
    return f"simulated-{name}"


async def run(installation: Installation, stop: asyncio.Event) -> None:
    """Be the agent of every simulated host of the folder until `stop`; their VMs run on."""
    place = installation.folder.hosts / SIMULATED
    folders = sorted(entry for entry in place.iterdir() if entry.is_dir())
    storage = make_shared_storage(installation.folder.hosts / STORAGE, STORAGE)
    hosts = [
        simulated_host(
            folder, name=folder.name, hardware=simulated_hardware(folder.name), storage=storage
        )
        for folder in folders
    ]
    process = AgentProcess(
        hosts=hosts,
        time_scale=installation.settings.time_scale,
        status=str(installation.folder.fleet_socket),
        control=installation.folder.hosts / "control",
    )
    await run_agent(process, stop)
