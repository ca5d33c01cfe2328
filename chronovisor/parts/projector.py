"""The projector's process."""

from __future__ import annotations

import asyncio

from chronovisor.heartbeat import Heartbeat, Pulse
from chronovisor.installation import Installation
from chronovisor.parts.common import open_reader, open_stream
from chronovisor.running import together
from projections.projector import Projector, ProjectorHealth, ProjectorStatus

_WORDS = {ProjectorStatus.FOLLOWING: "up"}


def _detail(health: ProjectorHealth) -> str:
    """Return what is wrong, or how far a build is."""
    if health.error or health.rebuild_position is None:
        return health.error
    head = f" of {health.head:,}" if health.head is not None else ""
    return f"The inventory is being built: event {health.rebuild_position:,}{head}."


async def run(installation: Installation, stop: asyncio.Event) -> None:
    """Keep the inventory up to date until `stop`."""
    settings = installation.settings
    async with open_reader(installation) as reader:
        stream = open_stream(installation, reader, kafka=settings.kafka.projector)
        projector = Projector(stream, installation.dsn(), time_scale=settings.time_scale)

        async def pulse() -> Pulse:
            health = await projector.health()
            word = _WORDS.get(health.status, str(health.status))
            return Pulse(state=word, position=health.position, detail=_detail(health))

        beat = Heartbeat(installation.dsn(), "projector", pulse)
        await together(stop, projector.run(), beat.run())
