"""The notifier's process: mail, SNMP, or a local file until either is configured."""

from __future__ import annotations

import asyncio

from chronovisor.heartbeat import Heartbeat, Pulse
from chronovisor.installation import Installation
from chronovisor.parts.common import REST_S, open_reader, open_stream
from chronovisor.running import together
from chronovisor.settings import SettingsError, Smtp, Snmp
from notifier.channel import Channel
from notifier.filters import FilterError
from notifier.process import Notifier


async def run(installation: Installation, stop: asyncio.Event) -> None:
    """Tell people and managers until `stop`."""
    settings = installation.settings.notifier
    installation.prepare_sockets()
    async with open_reader(installation) as reader:
        try:
            notifier = Notifier(
                open_stream(installation, reader, rest_s=REST_S),
                settings.filter,
                _channels(settings.smtp, settings.snmp),
                installation.folder.notifier,
                start=settings.start,
                copy_socket=installation.folder.notifier_copy_socket,
                time_scale=installation.settings.time_scale,
            )
        except (FilterError, ValueError) as error:
            message = f"the section notifier of the settings: {error}"
            raise SettingsError(message) from error

        def pulse() -> Pulse:
            status = notifier.status
            word = "up" if status.state == "following" else status.state
            return Pulse(state=word, position=status.position, detail=status.last_error)

        beat = Heartbeat(installation.dsn(), "notifier", pulse)
        await together(stop, notifier.run(), beat.run())


def _channels(smtp: Smtp, snmp: Snmp) -> list[Channel]:
    """Return the channels that are configured; what each imports costs memory, so only then."""
    channels: list[Channel] = []
    if smtp.server is not None:
        from notifier.mail import MailChannel, MailSettings  # noqa: PLC0415 - see above

        channels.append(
            MailChannel(
                MailSettings(
                    server=smtp.server,
                    port=smtp.port,
                    encryption=smtp.encryption,
                    user=smtp.user,
                    password_file=smtp.password_file,
                    ca_file=smtp.ca_file,
                    sender=smtp.sender,
                    reply_to=smtp.reply_to,
                )
            )
        )
    if snmp.managers:
        from notifier.traps import TrapChannel, TrapSettings  # noqa: PLC0415 - see above

        profile = TrapSettings(
            managers=snmp.managers, community_file=snmp.community_file, inform=snmp.inform
        )
        channels.append(TrapChannel({"": profile}))
    return channels
