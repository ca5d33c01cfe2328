"""How a machine becomes a host: its key is made here and never leaves; the engine's CA is pinned.

The token's text carries the fingerprint of the CA, so that not even the first contact trusts the
network: the CA's certificate is fetched unverified, compared with the fingerprint, and everything
that is secret goes over a connection that this CA vouches for.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from events.wire.agent import Join, JoinAnswer
from hostagent.backoff import Backoff
from hostagent.client import problem
from hostagent.files import make_private_folder, read_bounded, write_atomically
from hostagent.gateway import GatewayAwayError

KEY_NAME = "host.key"
CERTIFICATE_NAME = "host.crt"
TRUST_NAME = "trust.crt"
JOINED_NAME = "agent.json"
PUBLIC_MODE = 0o644
ANSWER_BYTES_MAX = 1024 * 1024
REQUEST_TIMEOUT_S = 15.0
POLL_MIN_S, POLL_MAX_S = 1.0, 15.0
APPROVAL_TIMEOUT_S = 24 * 3_600.0
NAME_CHARACTERS_MAX = 64
_TOKEN = re.compile(r"cvj1\.[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{43}\.([A-Za-z0-9_-]{43})")

_log = structlog.get_logger(__name__)


class JoinRefusedError(Exception):
    """The machine cannot join; the text says why and is for people."""


class JoinPendingError(JoinRefusedError):
    """Nobody approved the host in time; joining again continues where this left off."""


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine knows once it joined: its host's id and name, and the gateway's address."""

    host: str
    name: str
    gateway: str


async def join(
    url: str,
    token: str,
    folder: Path,
    *,
    hardware: str,
    name: str = "",
    approval_timeout_s: float = APPROVAL_TIMEOUT_S,
    poll_min_s: float = POLL_MIN_S,
    poll_max_s: float = POLL_MAX_S,
) -> Joined:
    """Join the engine at `url` with an enrolment token; done again, it finds what it did before.

    Makes `folder` hold the key (mode 0600), the certificate, the trust bundle and the gateway's
    address. Waits for an admin's approval up to `approval_timeout_s`. Raises JoinRefusedError.
    """
    make_private_folder(folder)
    done = load_joined(folder)
    if done is not None:
        return done
    _require_safe(url)
    pinned = _fingerprint_of(token)
    key = _own_key(folder / KEY_NAME)
    question = Join(
        token=token.strip(), signing_request=signing_request(key, name), hardware=hardware
    )
    backoff = Backoff(poll_min_s, poll_max_s)
    told = False
    try:
        async with asyncio.timeout(approval_timeout_s):
            while True:
                try:
                    answer = await _ask(url, pinned, question)
                except GatewayAwayError as error:
                    _log.warning("engine away, trying again", url=url, error=str(error))
                else:
                    if not answer.pending and answer.certificate is not None:
                        return _store(folder, key, answer)
                    if not told:
                        _log.info("waiting for an admin's approval", host=answer.name)
                        told = True
                await asyncio.sleep(backoff.next_s())
    except TimeoutError:
        waited = "nobody approved this host" if told else f"{url} did not answer"
        raise JoinPendingError(
            f"{waited} within {approval_timeout_s:g} s; run the same command again to go on waiting"
        ) from None


def load_joined(folder: Path) -> Joined | None:
    """Return what an earlier join left, None if there is none or it is not whole."""
    try:
        joined = msgspec.json.decode(read_bounded(folder / JOINED_NAME), type=Joined)
        key = load_key(read_bounded(folder / KEY_NAME))
        certificate = x509.load_pem_x509_certificate(read_bounded(folder / CERTIFICATE_NAME))
        trusted = (folder / TRUST_NAME).stat().st_size > 0
    except (OSError, ValueError):
        return None
    return joined if trusted and certificate.public_key() == key.public_key() else None


async def _ask(url: str, pinned: str, question: Join) -> JoinAnswer:
    authority = await _fetch_authority(url, pinned)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority)
    answer = await _request(url, "/v1/join", context, msgspec.json.encode(question))
    try:
        return msgspec.json.decode(answer, type=JoinAnswer)
    except msgspec.DecodeError as error:
        raise JoinRefusedError(f"the engine's answer makes no sense: {error}") from error


async def _fetch_authority(url: str, pinned: str) -> str:
    """Return the CA certificate (PEM) whose fingerprint the token names."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE  # nothing is believed but the fingerprint, below
    bundle = await _request(url, "/v1/ca", unverified, None)
    try:
        certificates = x509.load_pem_x509_certificates(bundle)
    except ValueError as error:
        raise JoinRefusedError(f"{url}/v1/ca answers no certificate: {error}") from error
    for certificate in certificates:
        der = certificate.public_bytes(serialization.Encoding.DER)
        digest = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
        if digest == pinned:
            return certificate.public_bytes(serialization.Encoding.PEM).decode()
    raise JoinRefusedError(
        f"{url} is not the engine that made this token: its CA has another fingerprint"
    )


async def _request(url: str, path: str, context: ssl.SSLContext, body: bytes | None) -> bytes:
    async with httpx.AsyncClient(
        verify=context, trust_env=False, timeout=REQUEST_TIMEOUT_S
    ) as client:
        try:
            method = "GET" if body is None else "POST"
            headers = {} if body is None else {"content-type": "application/json"}
            async with client.stream(
                method, url.rstrip("/") + path, content=body, headers=headers
            ) as response:
                answer = bytearray()
                async for chunk in response.aiter_bytes():
                    answer += chunk
                    if len(answer) > ANSWER_BYTES_MAX:
                        raise JoinRefusedError(f"{url}{path} answers too much")
        except httpx.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise JoinRefusedError(
                    f"{url} shows no certificate of the CA that the token names: {error}"
                ) from error
            raise GatewayAwayError(f"{type(error).__name__}: {error}") from error
    if response.is_success:
        return bytes(answer)
    refused = problem(response.status_code, response.headers.get("retry-after"), bytes(answer))
    if isinstance(refused, GatewayAwayError):
        raise refused
    raise JoinRefusedError(str(refused))


def _store(folder: Path, key: ec.EllipticCurvePrivateKey, answer: JoinAnswer) -> Joined:
    """Put the answer's parts into the folder, that which says that all is there last."""
    certificate = (answer.certificate or "").encode()
    try:
        parsed = x509.load_pem_x509_certificate(certificate)
        authorities = x509.load_pem_x509_certificates(answer.trust.encode())
    except ValueError as error:
        raise JoinRefusedError(f"the engine's certificates cannot be read: {error}") from error
    if parsed.public_key() != key.public_key():
        raise JoinRefusedError("the engine's certificate is for another machine's key")
    if not any(is_issued_by(authority, parsed) for authority in authorities):
        raise JoinRefusedError("the engine's certificate is not signed by the CA that it names")
    if urlsplit(answer.gateway).scheme != "https":
        raise JoinRefusedError(f"the gateway's address {answer.gateway!r} is not https")
    joined = Joined(host=answer.host, name=answer.name, gateway=answer.gateway)
    write_atomically(folder / TRUST_NAME, answer.trust.encode(), mode=PUBLIC_MODE)
    write_atomically(folder / CERTIFICATE_NAME, certificate, mode=PUBLIC_MODE)
    write_atomically(folder / JOINED_NAME, msgspec.json.encode(joined), mode=PUBLIC_MODE)
    _log.info("joined", host=joined.name, gateway=joined.gateway)
    return joined


def is_issued_by(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Tell whether a CA signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _own_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the host's key, made at the first join; a repeated join is the same machine."""
    if not path.exists():
        fresh = ec.generate_private_key(ec.SECP256R1())
        pem = fresh.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_atomically(path, pem)
    try:
        return load_key(read_bounded(path))
    except ValueError as error:
        raise JoinRefusedError(f"{path} is not a host's key: {error}") from error


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Return a host's key; raises ValueError."""
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise ValueError("not an EC P-256 key")
    return key


def public_key_sha256(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the SHA-256 (hex) of a key's public half, by which the engine knows the host."""
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(public).hexdigest()


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """Return a signing request in PEM; its name is only for the people who approve."""
    common_name = (name or "host")[:NAME_CHARACTERS_MAX]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def _fingerprint_of(token: str) -> str:
    match = _TOKEN.fullmatch(token.strip())
    if match is None:
        # The text itself stays out of the message: most of it is a secret.
        raise JoinRefusedError("this is not a join token (cvj1.<id>.<secret>.<fingerprint>)")
    return match.group(1)


def _require_safe(url: str) -> None:
    """Refuse to send the token in the clear, except within this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" and host:
        return
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if parts.scheme != "http" or not loopback:
        raise JoinRefusedError(f"{url!r} is not an https:// address")
