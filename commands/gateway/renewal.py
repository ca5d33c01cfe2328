"""Renewal: a host that shows a certificate for the key it was approved with gets the next one.

The TLS handshake proves that the host has the certificate's key, freshly, so that nothing more is
asked for. The dates are no matter of the handshake's (see `commands.gateway.tls`): an expired
certificate is good for this request for 90 days, and for no other request at all.

A host asks every hour or so, and the engine says whether there is anything to do: a certificate is
renewed with a third of its time left, or when its CA is being replaced. The answer to a host that
asks twice is the same. The old certificate counts until the new one was shown.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable

import msgspec
from cryptography import x509

from access.certificates import CertificateAuthority, CertificateRefusal, public_key_sha256
from commands.gateway import enrolment
from commands.gateway.enrolment import SIGNING_REQUEST_CHARACTERS_MAX, Enrolment
from commands.gateway.sessions import ClonedIdentity, NotYourHost
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.handler import ContextSource, Handler
from commands.kernel.refusal import InvalidField, Refusal
from commands.state.host import HOST, HostState
from events.log.port import OverloadedError
from events.types.host import HostCertificateIssued
from events.wire.agent import Renew, RenewAnswer

RENEW_PATH = "/agent/v1/renew"
RENEWAL_DAYS_MAX = 90
"""For so long after its end a certificate can be renewed."""
LEFT_FRACTION = 3
"""A certificate is renewed when one part in this many of its time is left."""
RENEWALS_AT_ONCE_MAX = 16
RENEWALS_WAITING_MAX = 256
Sign = Callable[[HostState, str, dt.datetime], HostCertificateIssued]


class RenewalTooLate(Refusal):
    """The certificate ended too long ago to be renewed."""

    status = 403


class Renewals:
    """Answers hosts that ask for the certificate they are to use."""

    def __init__(self, handler: Handler, enrolment: Enrolment) -> None:
        self._handler = handler
        self._enrolment = enrolment
        self._slots = asyncio.Semaphore(RENEWALS_AT_ONCE_MAX)
        self._waiting = 0

    async def renew(
        self, host_id: str, shown: bytes, renew: Renew, source: ContextSource
    ) -> RenewAnswer:
        """Return the certificate for a host that showed one (DER), and whom it is to trust."""
        if len(renew.signing_request) > SIGNING_REQUEST_CHARACTERS_MAX:
            raise InvalidField("The signing request is too long.", field="signing_request")
        if self._waiting >= RENEWALS_WAITING_MAX:
            raise OverloadedError(retry_after_s=5.0)
        self._waiting += 1
        try:
            async with self._slots:
                return await self._renew(host_id, shown, renew, source)
        finally:
            self._waiting -= 1

    async def _renew(
        self, host_id: str, shown: bytes, renew: Renew, source: ContextSource
    ) -> RenewAnswer:
        certificate = x509.load_der_x509_certificate(shown)
        if enrolment.public_key_sha256(renew.signing_request) != public_key_sha256(certificate):
            raise InvalidField(
                "The signing request is for another key than the certificate's.",
                remedy="A host with a new key joins again, with a new token.",
                field="signing_request",
            )

        def decide(world: World, context: Context) -> Decision:
            signer = self._enrolment.authorities.signer
            state = require_renewable(world, context.time, host_id, certificate)
            return renewal_of(
                state,
                due=lambda newest: is_due(newest, signer, context.time),
                sign=lambda: self._sign(state, renew, context.time),
            )

        accepted = await self._handler.handle(decide, source, principal=f"host/{host_id}")
        trust = await asyncio.to_thread(self._enrolment.trust)
        body = msgspec.json.decode(accepted.answer)
        return RenewAnswer(certificate=body["certificate"], trust=trust)

    def _sign(self, state: HostState, renew: Renew, now: dt.datetime) -> HostCertificateIssued:
        try:
            return self._enrolment.sign(state, renew.signing_request, now)
        except CertificateRefusal as error:
            raise InvalidField(
                f"The signing request is refused: {error}.", field="signing_request"
            ) from error


def require_renewable(
    world: World, now: dt.datetime, host_id: str, certificate: x509.Certificate
) -> HostState:
    """Return the host whose certificate may be renewed; raises NotYourHost, RenewalTooLate.

    Which of the host's certificates it is does not matter, its key does: a host that was put back
    to an older state of its disk, or lost what it was just given, is still the host.
    """
    state = require_known(world, host_id)
    if state.identity is None or state.identity.public_key_sha256 != public_key_sha256(certificate):
        raise NotYourHost(
            "The certificate's key is not the host's any more.",
            remedy="Join again with a new token.",
        )
    last = certificate.not_valid_after_utc + dt.timedelta(days=RENEWAL_DAYS_MAX)
    if now > last:
        raise RenewalTooLate(
            f"The certificate could be renewed until {last:%Y-%m-%d}.",
            remedy="Put the host into maintenance and join again with a new token.",
        )
    return state


def require_known(world: World, host_id: str) -> HostState:
    """Return a host that gets certificates at all; raises NotYourHost, ClonedIdentity."""
    state = world.get(HOST, host_id)
    if state is None or state.removed or not state.approved:
        raise NotYourHost(
            "The host is not known here, was removed, or is not approved.",
            remedy="Ask an admin; a removed host joins again with a new token.",
        )
    if state.duplicate:
        raise ClonedIdentity("Two machines use this host's identity.", remedy="Ask an admin.")
    return state


def renewal_of(
    state: HostState, *, due: Callable[[str], bool], sign: Callable[[], HostCertificateIssued]
) -> Decision:
    """Return the decision on a host that asks: the newest certificate (PEM), or one after that."""
    newest = state.renewed.pem if state.renewed is not None else state.certificate
    if newest is not None and not due(newest):
        return Decision(id=state.id, extra={"certificate": newest})
    issued = sign()
    return Decision(
        id=state.id,
        events=on(HOST.stream(state.id), issued),
        extra={"certificate": issued.certificate},
    )


def is_due(certificate_pem: str, signer: CertificateAuthority, now: dt.datetime) -> bool:
    """Tell whether a certificate is to be renewed: near its end, or of another CA than `signer`.

    Not where a new one would end with the CA, as this one does.
    """
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    if not signer.issued(certificate):
        return True
    end = certificate.not_valid_after_utc
    if end >= signer.certificate.not_valid_after_utc:
        return False
    return end - now <= (end - certificate.not_valid_before_utc) / LEFT_FRACTION
