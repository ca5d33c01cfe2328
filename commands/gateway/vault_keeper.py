"""The vault's keeper: what no host's state refers to is forgotten.

A reference is known by its form, wherever it stands in a host's state: so whoever keeps a secret
for a host need not say so here, and whatever replaces or removes the reference forgets the secret.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from access.vault import Vault, references_in
from commands.gateway.view import GatewayView
from events.log.port import LogReader

SWEEP_INTERVAL_S = 60.0
YOUNG_S = 600.0
"""A secret is put into the vault before its command is decided: no append takes that long."""
CATCH_UP_S_MAX = 30.0
HOSTS_AT_ONCE = 200

log = structlog.get_logger(__name__)


class VaultKeeper:
    """Sweeps the vault again and again; several engines may do so beside each other."""

    def __init__(self, vault: Vault, view: GatewayView, reader: LogReader) -> None:
        self._vault = vault
        self._view = view
        self._reader = reader

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - what is left over is swept the next time
                log.warning("the vault is not swept", reason=repr(error))

    async def sweep(self, young_s: float = YOUNG_S) -> int:
        """Forget what is not referred to, once the view has all that was appended until now."""
        await self._view.reach(await self._reader.head(), CATCH_UP_S_MAX)
        kept: set[str] = set()
        for number, host in enumerate(list(self._view.hosts.values())):
            if number % HOSTS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if not host.removed:
                kept |= references_in(msgspec.json.encode(host))
        forgotten = await self._vault.sweep(kept, young_s)
        if forgotten:
            log.info("secrets that nothing refers to are forgotten", count=forgotten)
        return forgotten
