"""The relay's process: from the log to Kafka."""

from __future__ import annotations

import asyncio

from chronovisor.heartbeat import Heartbeat, Pulse
from chronovisor.installation import Installation
from chronovisor.parts.common import open_reader
from chronovisor.running import together
from chronovisor.settings import SettingsError
from events.stream.relay import Relay


async def run(installation: Installation, stop: asyncio.Event) -> None:
    """Publish the log until `stop`."""
    settings = installation.settings
    if settings.kafka.bootstrap is None:
        message = "the relay needs the setting kafka.bootstrap (host:port of a broker)"
        raise SettingsError(message)
    async with open_reader(installation) as reader:
        relay = Relay(settings.kafka.bootstrap, reader, time_scale=settings.time_scale)

        def pulse() -> Pulse:
            status = relay.status
            word = "up" if status.state == "publishing" else status.state
            return Pulse(state=word, position=status.position, detail=status.last_error)

        beat = Heartbeat(installation.dsn(), "relay", pulse)
        await together(stop, relay.run(), beat.run())
