"""A real host's agent process, through libvirt."""

from __future__ import annotations

import asyncio
from pathlib import Path

from chronovisor.installation import Installation
from chronovisor.settings import SettingsError
from hostagent.options import real_agent
from hostagent.process import run_agent


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
