"""The notifier for tests that kill it: `notifier_child.py SETTINGS` (a JSON file)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from events.log.postgres import PostgresLog
from events.stream.direct import DirectStream
from notifier.channel import Channel
from notifier.mail import MailChannel, MailSettings
from notifier.process import Notifier
from notifier.traps import TrapChannel, TrapSettings


def channels(settings: dict[str, Any]) -> list[Channel]:
    found: list[Channel] = []
    if mail := settings.get("mail"):
        paths = {name: Path(mail[name]) for name in ("password_file", "ca_file") if name in mail}
        found.append(MailChannel(MailSettings(**{**mail, **paths})))
    if trap := settings.get("trap"):
        profile = TrapSettings(
            managers=tuple(trap["managers"]),
            community_file=Path(trap["community_file"]),
            inform=trap["inform"],
            inform_timeout_s=0.5,
        )
        found.append(TrapChannel({"": profile}))
    return found


async def main(settings: dict[str, Any]) -> None:
    async with PostgresLog.open(settings["dsn"], migrate=False) as log:
        notifier = Notifier(
            DirectStream(log),
            settings["filter"],
            channels(settings),
            Path(settings["folder"]),
            start="beginning",
            time_scale=0.02,
        )
        await notifier.run()


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
