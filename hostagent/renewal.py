"""Keeping a host's certificate, and the CAs that it trusts, as the engine wants them.

The agent asks every hour with a signing request for the key that it has; the engine answers the
certificate to use and the CAs to trust, which mostly are those that are here. So a certificate is
renewed months before it ends, a CA can be replaced, and a host that was off for up to 90 days after
its certificate's end comes back by itself: the engine takes this request, and no other, from it.

It asks sooner where the engine refuses the certificate: a restored backup of the engine, or of the
host's own disk, may have forgotten the last renewal, and the answer names the one that counts.

What the engine answered is written before it is used, the trust first. Killed in between, the agent
goes on with the old certificate, which counts until the new one was shown, and asks again.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from events.wire.agent import Renew, RenewAnswer
from hostagent.backoff import Backoff
from hostagent.client import agent_context
from hostagent.files import read_bounded, write_atomically
from hostagent.gateway import GatewayError
from hostagent.join import (
    CERTIFICATE_NAME,
    KEY_NAME,
    PUBLIC_MODE,
    TRUST_NAME,
    is_issued_by,
    load_key,
    signing_request,
)
from hostagent.timings import Timings

AUTHORITIES_MAX = 16
FIRST_WITHIN_FRACTION = 0.1
"""The first request comes within this part of the interval, so that many hosts spread out."""
LEFT_FRACTION = 3

_log = structlog.get_logger(__name__)


class BadRenewalError(Exception):
    """The engine's answer is not a certificate for this host's key; what is here is kept."""


class RenewalGateway(Protocol):
    """What renewing needs of the engine."""

    @property
    def refused(self) -> asyncio.Event:
        """Set whenever the engine does not take the certificate that was shown."""
        ...

    async def renew(self, renew: Renew) -> RenewAnswer:
        """Ask for the certificate to use; raises GatewayError."""
        ...

    def use(self, context: ssl.SSLContext) -> None:
        """Make all further connections with these TLS settings."""
        ...


class Renewal:
    """Renews the certificate in one host's state folder."""

    def __init__(
        self,
        folder: Path,
        gateway: RenewalGateway,
        timings: Timings,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        dice: random.Random | None = None,
    ) -> None:
        self._folder = folder
        self._gateway = gateway
        self._timings = timings
        self._now = now
        self._dice = dice or random.Random()  # noqa: S311

    async def run(self) -> None:
        """Ask for ever: soon where the certificate is refused or nears its end, else at times.

        One that goes on being refused is asked for ever more rarely.
        """
        interval_s = self._timings.renew_interval_s
        backoff = Backoff(self._timings.renew_retry_min_s, interval_s, self._dice)
        if not await asyncio.to_thread(self.is_due):
            await self._refused_within(interval_s * FIRST_WITHIN_FRACTION * self._dice.random())
        while True:
            self._gateway.refused.clear()
            try:
                changed = await self.renew()
            except (GatewayError, BadRenewalError, OSError, ValueError) as error:
                _log.warning("certificate not renewed", folder=self._folder.name, error=str(error))
                await asyncio.sleep(backoff.next_s())
                continue
            if changed:
                backoff.reset()
            if await self._refused_within(interval_s * self._dice.uniform(0.9, 1.0)):
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()

    async def renew(self) -> bool:
        """Ask once; tell whether anything changed, in which case it is in use already."""
        key = await asyncio.to_thread(self._key)
        answer = await self._gateway.renew(Renew(signing_request=signing_request(key, "")))
        context = await asyncio.to_thread(self._store, key, answer)
        if context is None:
            return False
        self._gateway.use(context)
        _log.info("certificate renewed", folder=self._folder.name)
        return True

    def is_due(self) -> bool:
        """Tell whether a third of the certificate's time, or less, is left."""
        certificate = self._certificate()
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return end - self._now() <= (end - begin) / LEFT_FRACTION

    async def _refused_within(self, limit_s: float) -> bool:
        """Wait until the engine refuses the certificate, and tell whether it has."""
        try:
            async with asyncio.timeout(limit_s):
                return await self._gateway.refused.wait()
        except TimeoutError:
            return False

    def _store(self, key: ec.EllipticCurvePrivateKey, answer: RenewAnswer) -> ssl.SSLContext | None:
        """Write what is new; return the TLS settings with it, None if nothing is."""
        certificate, trust = answer.certificate.encode(), answer.trust.encode()
        self._require_ours(key, certificate, trust)
        paths = (self._folder / TRUST_NAME, self._folder / CERTIFICATE_NAME)
        changed = False
        for path, content in zip(paths, (trust, certificate), strict=True):
            if read_bounded(path) != content:
                write_atomically(path, content, mode=PUBLIC_MODE)
                changed = True
        if not changed:
            return None
        return agent_context(paths[1], self._folder / KEY_NAME, paths[0])

    def _require_ours(
        self, key: ec.EllipticCurvePrivateKey, certificate: bytes, trust: bytes
    ) -> None:
        """Refuse what would lock this host out: the engine has been made sure of by its TLS."""
        try:
            parsed = x509.load_pem_x509_certificate(certificate)
            authorities = x509.load_pem_x509_certificates(trust)
        except ValueError as error:
            raise BadRenewalError(f"the engine's certificates cannot be read: {error}") from error
        if not 1 <= len(authorities) <= AUTHORITIES_MAX:
            raise BadRenewalError(f"the engine names {len(authorities)} CAs")
        if parsed.public_key() != key.public_key():
            raise BadRenewalError("the engine's certificate is for another machine's key")
        if _names(parsed) != _names(self._certificate()):
            raise BadRenewalError("the engine's certificate is for another host")
        if not any(is_issued_by(authority, parsed) for authority in authorities):
            raise BadRenewalError("the engine's certificate is not signed by the CA that it names")

    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(read_bounded(self._folder / CERTIFICATE_NAME))

    def _key(self) -> ec.EllipticCurvePrivateKey:
        return load_key(read_bounded(self._folder / KEY_NAME))


def _names(certificate: x509.Certificate) -> list[str | bytes]:
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [attribute.value for attribute in found]
