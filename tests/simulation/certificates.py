"""Hosts' certificates, of which there is only a text: real ones are never the same twice.

Who gets which, and when a host asks, are the real rules. Only that a certificate nears its end is
said by the world, and making and storing it are left out.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import TYPE_CHECKING

import msgspec

from commands.gateway.renewal import renewal_of, require_known
from commands.kernel.command import Context, Decision
from commands.kernel.fold import World
from commands.kernel.handler import ContextSource, Handler
from events.types.host import HostCertificateIssued
from events.wire.agent import Renew, RenewAnswer
from hostagent.renewal import Renewal
from hostagent.timings import Timings
from tests.simulation.patches import EPOCH

if TYPE_CHECKING:
    from tests.simulation.line import Line
    from tests.simulation.machine import SimulatedHost


def issued(host: str, name: str, text: str) -> HostCertificateIssued:
    """Return that a host is given a certificate; its text begins with the host's id."""
    certificate = f"{host} {text}"
    return HostCertificateIssued(
        name=name,
        fingerprint=hashlib.sha256(certificate.encode()).hexdigest(),
        serial=text,
        certificate=certificate,
        expires=EPOCH,
    )


class EngineRenewals:
    """The engine's end: `commands.gateway.renewal.Renewals`. `ending`: what nears its end."""

    def __init__(self, handler: Handler, ending: set[str]) -> None:
        self._handler = handler
        self._ending = ending

    async def renew(
        self, host: str, _shown: bytes, _renew: Renew, source: ContextSource
    ) -> RenewAnswer:
        """Return the certificate that a host is to use."""

        def decide(world: World, context: Context) -> Decision:
            state = require_known(world, host)
            return renewal_of(
                state,
                due=self._ending.__contains__,
                sign=lambda: issued(host, state.name, context.ids[0]),
            )

        accepted = await self._handler.handle(decide, source, principal=f"host/{host}")
        return RenewAnswer(
            certificate=msgspec.json.decode(accepted.answer)["certificate"], trust=""
        )


class HostRenewal(Renewal):
    """The agent's end, which keeps a text."""

    def __init__(self, host: SimulatedHost, line: Line, ending: set[str], seed: int) -> None:
        super().__init__(host.folder, line, Timings(), dice=random.Random(seed))
        self._host = host
        self._line = line
        self._ending = ending

    async def renew(self) -> bool:
        """See `Renewal.renew`."""
        answer = await self._line.renew(Renew(signing_request=""))
        await asyncio.sleep(0)
        former, self._host.certificate = self._host.certificate, answer.certificate.encode()
        return former != self._host.certificate

    def is_due(self) -> bool:
        """See `Renewal.is_due`."""
        return self._host.certificate.decode() in self._ending
