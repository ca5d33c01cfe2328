"""Enrolling thousands of simulated hosts at once, by the events that joining would append.

What each host gets is what `chronovisor agent join` leaves: a key of its own, a certificate of the
engine's CA, and its folder. What is left out is the conversation: tokens are never shown, and keys
and signatures are made here, many a second.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from uuid_utils.compat import uuid7

from access.certificates import CertificateAuthority
from chronovisor.installation import Installation
from chronovisor.parts.fleet import simulated_hardware
from events.envelope import NewEvent
from events.log.port import Append, Appended, OverloadedError
from events.log.postgres import PostgresLog
from events.types.host import (
    HostAdded,
    HostCertificateIssued,
    HostEnrolmentTokenIssued,
    HostJoinRequested,
)
from hostagent.join import CERTIFICATE_NAME, JOINED_NAME, KEY_NAME, TRUST_NAME, Joined

AT_ONCE_MAX = 200
ATTEMPTS_MAX = 30
ACTOR = "benchmark"


class NewHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host to enrol, where its agent's folder lies, and the gateway that it is to talk to."""

    name: str
    folder: Path
    gateway: str


async def enrol(
    installation: Installation, cluster: str, data_center: str, hosts: Sequence[NewHost]
) -> None:
    """Enrol hosts in a cluster; their agents can say hello from then on."""
    authority = CertificateAuthority.load(installation.folder.authority)
    trust = installation.server_files().trust.read_bytes()
    async with PostgresLog.open(installation.dsn(), migrate=False) as log:
        for first in range(0, len(hosts), AT_ONCE_MAX):
            appends = []
            for host in hosts[first : first + AT_ONCE_MAX]:
                joined = Joined(host=str(uuid7()), name=host.name, gateway=host.gateway)
                certificate, request = _make_folder(authority, host.folder, joined, trust)
                appends.append(_append(joined, cluster, data_center, certificate, request))
            await asyncio.gather(*(_put(log, append) for append in appends))


async def _put(log: PostgresLog, append: Append) -> None:
    """Append, as soon as the log has room."""
    for _ in range(ATTEMPTS_MAX):
        try:
            outcome = await log.append(append)
        except OverloadedError as error:
            await asyncio.sleep(error.retry_after_s)
            continue
        assert isinstance(outcome, Appended), outcome
        return
    message = "the log has no room for a host"
    raise TimeoutError(message)


def _make_folder(
    authority: CertificateAuthority, folder: Path, joined: Joined, trust: bytes
) -> tuple[x509.Certificate, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, joined.name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    pem = authority.sign_host_request(request, joined.host, dt.datetime.now(dt.UTC))
    folder.mkdir(parents=True, mode=0o700)
    private = key.private_bytes(
        Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / KEY_NAME).write_bytes(private)
    (folder / KEY_NAME).chmod(0o600)
    (folder / CERTIFICATE_NAME).write_bytes(pem)
    (folder / TRUST_NAME).write_bytes(trust)
    (folder / JOINED_NAME).write_bytes(msgspec.json.encode(joined))
    return x509.load_pem_x509_certificate(pem), request.decode()


def _append(
    joined: Joined, cluster: str, data_center: str, certificate: x509.Certificate, request: str
) -> Append:
    now, token, stream = dt.datetime.now(dt.UTC), str(uuid.uuid4()), f"host/{joined.host}"
    public = certificate.public_key().public_bytes(
        Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    events = (
        HostAdded(name=joined.name, cluster=cluster, data_center=data_center, approved=True),
        HostEnrolmentTokenIssued(
            token=token, secret_sha256="", expires=now + dt.timedelta(hours=1)
        ),
        HostJoinRequested(
            name=joined.name,
            token=token,
            public_key_sha256=hashlib.sha256(public).hexdigest(),
            hardware=simulated_hardware(joined.name),
            signing_request=request,
        ),
        HostCertificateIssued(
            name=joined.name,
            fingerprint=hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
            serial=f"{certificate.serial_number:x}",
            certificate=certificate.public_bytes(Encoding.PEM).decode(),
            expires=certificate.not_valid_after_utc,
        ),
    )
    return Append(
        command=uuid7(),
        principal=ACTOR,
        actor=ACTOR,
        reads={stream: 0},
        events=tuple(NewEvent(stream, event) for event in events),
        time=now,
    )
