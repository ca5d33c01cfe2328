"""Certificates on disk: the trust bundle, a server's files, and when to renew."""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from access.certificates import (
    SERVER_VALID_DAYS,
    TRUST_BUNDLE_NAME,
    BrokenAuthority,
    CertificateAuthority,
    CertificateRefusal,
    fingerprint,
)
from access.files import (
    PUBLIC_MODE,
    alone_in,
    make_private_folder,
    read_bounded,
    write_atomically,
)

RENEW_BEFORE = dt.timedelta(days=30)
BUNDLE_CERTIFICATES_MAX = 16


class ServerFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server's certificate and key lie, and the CA certificates that its peers trust."""

    certificate: Path
    key: Path
    trust: Path


def read_trust_bundle(path: Path) -> list[x509.Certificate]:
    """The CA certificates of a bundle, one to sixteen; BrokenAuthority otherwise."""
    try:
        certificates = x509.load_pem_x509_certificates(read_bounded(path))
    except ValueError as error:
        message = f"{path} holds no certificates"
        raise BrokenAuthority(message) from error
    if not 1 <= len(certificates) <= BUNDLE_CERTIFICATES_MAX:
        message = f"{path} holds {len(certificates)} certificates, 1 to 16 are allowed"
        raise BrokenAuthority(message)
    return certificates


def add_to_trust_bundle(path: Path, certificate: x509.Certificate) -> None:
    """Trust one more CA: the first step of replacing the old one, while both are in use."""
    known = read_trust_bundle(path) if path.exists() else []
    if certificate in known:
        return
    if len(known) >= BUNDLE_CERTIFICATES_MAX:
        message = f"{path} already holds {len(known)} certificates; take an old one out first"
        raise CertificateRefusal(message)
    pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in [*known, certificate])
    write_atomically(path, pem, mode=PUBLIC_MODE)


def replace_trust_bundle(path: Path, certificate: x509.Certificate) -> None:
    """Trust this CA alone: the last step of replacing another."""
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    write_atomically(path, pem, mode=PUBLIC_MODE)


def pick_by_fingerprint(bundle_pem: bytes, wanted: str) -> bytes:
    """The one certificate (PEM) of a bundle that has this fingerprint.

    A joining host fetches the bundle before it trusts anybody; the fingerprint in its join text
    is what makes the answer trustworthy. CertificateRefusal if no certificate has it.
    """
    try:
        certificates = x509.load_pem_x509_certificates(bundle_pem)
    except ValueError as error:
        message = "the answer holds no certificates"
        raise CertificateRefusal(message) from error
    for certificate in certificates[:BUNDLE_CERTIFICATES_MAX]:
        if fingerprint(certificate) == wanted:
            return certificate.public_bytes(serialization.Encoding.PEM)
    message = "no certificate authority with the fingerprint of the join text: is this the engine?"
    raise CertificateRefusal(message)


def ensure_server_files(
    authority_folder: Path,
    folder: Path,
    name: str,
    names: Sequence[str],
    addresses: Sequence[str],
    now: dt.datetime,
) -> ServerFiles:
    """A server's certificate and key in `folder` as `<name>.crt` and `<name>.key`.

    Issued by the CA in `authority_folder`, and again whenever the one there is of another CA,
    lacks a name or address, or has less than 30 days to go. Call it at each start.
    """
    authority = CertificateAuthority.load(authority_folder)
    files = ServerFiles(
        certificate=folder / f"{name}.crt",
        key=folder / f"{name}.key",
        trust=authority_folder / TRUST_BUNDLE_NAME,
    )
    make_private_folder(folder)
    # Engines that start at once would else leave the key of one and the certificate of another.
    with alone_in(folder):
        if not _serves(files, authority, names, addresses, now):
            issued = authority.issue_server(names, addresses, now, valid_days=SERVER_VALID_DAYS)
            # A crash between the two leaves a pair that does not match, which `_serves` notices.
            write_atomically(files.key, issued.key)
            write_atomically(files.certificate, issued.certificate, mode=PUBLIC_MODE)
    return files


def _serves(
    files: ServerFiles,
    authority: CertificateAuthority,
    names: Sequence[str],
    addresses: Sequence[str],
    now: dt.datetime,
) -> bool:
    """Whether the files are there, match, and are good for a while."""
    try:
        certificate = x509.load_pem_x509_certificate(read_bounded(files.certificate))
        key = serialization.load_pem_private_key(read_bounded(files.key), password=None)
        certificate.verify_directly_issued_by(authority.certificate)
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except Exception:  # noqa: BLE001  whatever is wrong with the old files, new ones mend it
        return False
    wanted = {ipaddress.ip_address(address) for address in addresses}
    return (
        key.public_key() == certificate.public_key()
        and set(names) <= set(extension.value.get_values_for_type(x509.DNSName))
        and wanted <= set(extension.value.get_values_for_type(x509.IPAddress))
        and certificate.not_valid_after_utc - now > RENEW_BEFORE
    )
