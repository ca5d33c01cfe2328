"""The engine's own certificates while it runs: renewed in time, and changed when the CA is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from access.files import read_bounded
from access.succession import Authorities
from access.trust import ServerFiles
from commands.gateway.tls import ServerConfig

LOOK_INTERVAL_S = 10.0

_log = structlog.get_logger(__name__)


class CertificateKeeper:
    """Keeps what the ports show, and whom they trust, as the installation's folder has it.

    `files` issues the servers' certificate anew where that is due (`ensure_server_files`).
    """

    def __init__(
        self,
        files: Callable[[], ServerFiles],
        authorities: Authorities,
        ports: Sequence[ServerConfig],
        *,
        interval_s: float = LOOK_INTERVAL_S,
    ) -> None:
        self._files = files
        self._authorities = authorities
        self._ports = tuple(ports)
        self._interval_s = interval_s
        self._shown = b""

    async def run(self) -> None:
        """Look every now and then, for ever."""
        self._shown = await asyncio.to_thread(self._certificate)
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.look()
            except (OSError, ValueError) as error:
                # What is in use goes on being used; a folder that is being changed is looked at
                # again in a moment.
                _log.warning("the certificates cannot be read", error=str(error))

    async def look(self) -> bool:
        """Take up what changed; tell whether anything did."""
        shown = await asyncio.to_thread(self._certificate)
        # Without a pause from here on: no host gets a certificate of a new CA before the ports
        # trust it.
        changed = self._authorities.refresh()
        if not changed and shown == self._shown:
            return False
        for port in self._ports:
            port.reload_certificates()
        self._shown = shown
        _log.info(
            "certificates renewed",
            authority=self._authorities.current.fingerprint,
            overlap=self._authorities.overlap,
        )
        return True

    def _certificate(self) -> bytes:
        return read_bounded(self._files().certificate)
