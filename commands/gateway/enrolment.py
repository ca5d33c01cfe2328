"""Enrolment: a machine shows a host's token, and gets a certificate for its own key."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from access import certificates
from access.certificates import CertificateRefusal
from access.joining import BadJoinText, JoinToken, format_join_token, parse_join_token
from access.secrets import EngineSecret, verify_enrolment
from access.succession import Authorities
from commands.gateway.view import GatewayView
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.handler import ContextSource, Handler
from commands.kernel.refusal import InvalidField, Refusal
from commands.state.host import HOST, Duty, HostState
from events.types.host import HostCertificateIssued, HostJoinRequested
from events.wire.agent import Join, JoinAnswer

SIGNING_REQUEST_CHARACTERS_MAX = 8_192
HARDWARE_CHARACTERS_MAX = 256
_NOBODY = "00000000-0000-0000-0000-000000000000"


class TokenRefused(Refusal):
    """The enrolment token is not accepted."""

    status = 403


class Enrolment:
    """Checks tokens, records who joins, signs keys."""

    def __init__(
        self,
        handler: Handler,
        view: GatewayView,
        authorities: Authorities,
        secret: EngineSecret,
        trust: Path,
        gateway_url: str,
    ) -> None:
        self._handler = handler
        self._view = view
        self._authorities = authorities
        self._secret = secret
        self._trust = trust
        self._gateway_url = gateway_url

    @property
    def authorities(self) -> Authorities:
        """Return the CAs that sign."""
        return self._authorities

    def trust(self) -> str:
        """Return the CA certificates that agents trust, in PEM."""
        return self._trust.read_text(encoding="ascii")

    def token_text(self, token_id: str) -> str:
        """Return the text that an admin hands to the machine; it holds the secret."""
        return format_join_token(
            JoinToken(
                token_id=token_id,
                secret=self._secret.enrolment_secret(token_id),
                ca_fingerprint=self._authorities.current.fingerprint,
            )
        )

    async def join(self, join: Join, source: ContextSource) -> JoinAnswer:
        """Record the machine's wish; answer its certificate once the host is approved.

        The same machine (the same key) may ask again with the same token while it waits.
        """
        token = self._parse(join)
        self._require_signable(join)
        key = public_key_sha256(join.signing_request)
        host = self._view.host_of_token(token.token_id)
        if host is None:
            raise _refused("The token is not known, or a newer one was given out.")
        host_id = host.id
        context = source()

        def decide(world: World, context: Context) -> Decision:
            return decide_join(world, context, host_id, token, join, key)

        await self._handler.handle(decide, lambda: context, principal=f"host/{host_id}")
        return await self._certificate(host_id, source)

    async def _certificate(self, host_id: str, source: ContextSource) -> JoinAnswer:
        context = source()

        def decide(world: World, context: Context) -> Decision:
            state = _require_host(world, host_id)
            identity = state.identity
            if not state.approved or identity is None or state.certificate is not None:
                return Decision(
                    id=host_id, extra={"name": state.name, "certificate": state.certificate}
                )
            issued = self.sign(state, identity.signing_request, context.time)
            return Decision(
                id=host_id,
                events=on(HOST.stream(host_id), issued),
                extra={"name": state.name, "certificate": issued.certificate},
            )

        accepted = await self._handler.handle(decide, lambda: context, principal="enrolment")
        body = msgspec.json.decode(accepted.answer)
        return JoinAnswer(
            host=host_id,
            name=body["name"],
            pending=body["certificate"] is None,
            certificate=body["certificate"],
            trust=self.trust(),
            gateway=self._gateway_url,
        )

    def sign(self, state: HostState, request: str, now: dt.datetime) -> HostCertificateIssued:
        """Return the event of a host's new certificate; raises CertificateRefusal."""
        pem = self._authorities.signer.sign_host_request(request.encode(), state.id, now)
        certificate = x509.load_pem_x509_certificate(pem)
        return HostCertificateIssued(
            name=state.name,
            fingerprint=hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
            serial=f"{certificate.serial_number:x}",
            certificate=pem.decode(),
            expires=certificate.not_valid_after_utc,
        )

    def _require_signable(self, join: Join) -> None:
        """Refuse a request that the CA will not sign before anything is recorded of it."""
        try:
            pem = join.signing_request.encode()
            self._authorities.signer.sign_host_request(pem, _NOBODY, dt.datetime.now(dt.UTC))
        except CertificateRefusal as error:
            raise InvalidField(
                f"The signing request is refused: {error}.",
                remedy="Let 'chronovisor agent join' make it.",
                field="signing_request",
            ) from error

    @staticmethod
    def _parse(join: Join) -> JoinToken:
        if len(join.signing_request) > SIGNING_REQUEST_CHARACTERS_MAX:
            raise InvalidField("The signing request is too long.", field="signing_request")
        if not 0 < len(join.hardware) <= HARDWARE_CHARACTERS_MAX:
            raise InvalidField("The hardware id is missing or too long.", field="hardware")
        try:
            return parse_join_token(join.token)
        except BadJoinText as error:
            raise _refused("The token is cut short or was changed.") from error


def decide_join(
    world: World, context: Context, host_id: str, token: JoinToken, join: Join, key: str
) -> Decision:
    """Use the token for this machine's key; the same key again changes nothing."""
    state = _require_host(world, host_id)
    issued = state.token
    if issued is None or issued.id != token.token_id:
        raise _refused("A newer token was given out for this host.")
    if not verify_enrolment(token.secret, issued.secret_sha256):
        raise _refused("The token's secret is wrong.")
    identity = state.identity
    if identity is not None and identity.token == issued.id:
        if identity.public_key_sha256 != key:
            raise _refused("The token was used already, by another machine or with another key.")
        return Decision(id=host_id)
    if context.time > issued.expires:
        raise _refused("The token has expired.")
    if _takes_over(state, join):
        raise _refused(
            "Another machine is this host, and may be running its VMs.",
            "Put the host into maintenance before another machine takes its place.",
        )
    requested = HostJoinRequested(
        name=state.name,
        token=issued.id,
        public_key_sha256=key,
        hardware=join.hardware,
        signing_request=join.signing_request,
    )
    return Decision(id=host_id, events=on(HOST.stream(host_id), requested))


def _takes_over(state: HostState, join: Join) -> bool:
    """Tell whether a machine would speak for another one that may be running VMs.

    What it says of them (absent, rebooted) would prove nothing. In maintenance there are none.
    """
    identity = state.identity
    if identity is None or identity.hardware == join.hardware or state.session is None:
        return False
    return state.duty is not Duty.MAINTENANCE


def public_key_sha256(signing_request: str) -> str:
    """Return the SHA-256 (hex) of a signing request's public key; raises InvalidField."""
    try:
        request = x509.load_pem_x509_csr(signing_request.encode())
    except ValueError as error:
        raise InvalidField(
            "The signing request cannot be read.",
            remedy="Send a PKCS #10 request in PEM.",
            field="signing_request",
        ) from error
    if not request.is_signature_valid:
        raise InvalidField("The signing request's signature is wrong.", field="signing_request")
    return certificates.public_key_sha256(request)


def _require_host(world: World, host_id: str) -> HostState:
    state = world.get(HOST, host_id)
    if state is None or state.removed:
        raise _refused("The host was removed.")
    return state


def _refused(
    detail: str, remedy: str = "Ask an admin for a new token: 'chronovisor host token'."
) -> TokenRefused:
    return TokenRefused(detail, remedy=remedy)
