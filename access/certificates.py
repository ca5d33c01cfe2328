"""The internal certificate authority, made at set-up, that every host and server is known by.

Keys are EC P-256. The time is always passed in. A host's key never leaves the host: it sends a
signing request (`access.host_keys`), from which only the public key is taken.
"""

import base64
import datetime as dt
import hashlib
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from access.files import (
    PUBLIC_MODE,
    create_once,
    make_private_folder,
    read_bounded,
    write_atomically,
)

CA_KEY_NAME = "ca.key"
CA_CERTIFICATE_NAME = "ca.crt"
TRUST_BUNDLE_NAME = "trust.crt"
SUCCESSOR_NAME = "next"
"""The folder, within the CA's own, of the CA that is to replace it."""
CA_VALID_DAYS = 3650
HOST_VALID_DAYS = 365
HOST_VALID_DAYS_MIN = 90
HOST_VALID_DAYS_MAX = 365
SERVER_VALID_DAYS = 365
REQUEST_BYTES_MAX = 16 * 1024
# A certificate is valid a little before it was made, for hosts whose clocks are behind.
CLOCK_SKEW = dt.timedelta(minutes=10)
HOST_URI_PREFIX = "chronovisor:host:"
_HOST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class CertificateRefusal(ValueError):
    """A certificate, a key or a signing request cannot be used."""


class BadSigningRequest(CertificateRefusal):
    """The signing request is malformed, wrongly signed, or has a key of another type or size."""


class NotAHostCertificate(CertificateRefusal):
    """The certificate does not name a host."""


class BrokenAuthority(CertificateRefusal):
    """The certificate authority's files are missing or do not belong together."""


class IssuedCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate with its own new private key, both in PEM."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        """Without the key, so that a log line can not give it away."""
        return "IssuedCertificate()"


class CertificateAuthority:
    """Issues the certificates of servers and hosts."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        if certificate.public_key() != key.public_key():
            message = "the CA's key is not the one of its certificate"
            raise BrokenAuthority(message)
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, folder: Path, now: dt.datetime) -> "CertificateAuthority":
        """Make a CA in `folder`: key (mode 0600), certificate, and the trust bundle with it alone.

        Refuses, by FileExistsError, to replace a key that is there. A creation that was killed
        half way is completed from its key, so that `create` after a crash is safe.
        """
        make_private_folder(folder)
        key = ec.generate_private_key(ec.SECP256R1())
        if not create_once(folder / CA_KEY_NAME, _key_pem(key)):
            if (folder / CA_CERTIFICATE_NAME).exists():
                message = f"{folder} already holds a certificate authority"
                raise FileExistsError(message)
            key = _load_key(folder / CA_KEY_NAME)
        certificate = _self_signed(key, now)
        # The bundle first: whoever finds ca.crt finds everything.
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        write_atomically(folder / TRUST_BUNDLE_NAME, pem, mode=PUBLIC_MODE)
        write_atomically(folder / CA_CERTIFICATE_NAME, pem, mode=PUBLIC_MODE)
        return cls(certificate, key)

    @classmethod
    def load(cls, folder: Path) -> "CertificateAuthority":
        """The CA of a folder; BrokenAuthority if it is not whole."""
        try:
            key = _load_key(folder / CA_KEY_NAME)
            pem = read_bounded(folder / CA_CERTIFICATE_NAME)
            certificate = x509.load_pem_x509_certificate(pem)
            promoted = folder / SUCCESSOR_NAME / CA_KEY_NAME
            if certificate.public_key() != key.public_key() and promoted.exists():
                # A successor was put in place half way: its key still lies where it was made.
                key = _load_key(promoted)
            return cls(certificate, key)
        except FileNotFoundError as error:
            message = f"no certificate authority: {error.filename} is missing"
            raise BrokenAuthority(message) from error
        except ValueError as error:
            message = f"the certificate authority in {folder} cannot be read: {error}"
            raise BrokenAuthority(message) from error

    @classmethod
    def load_or_create(cls, folder: Path, now: dt.datetime) -> "CertificateAuthority":
        """The CA of a folder, made there at the first start."""
        if (folder / CA_CERTIFICATE_NAME).exists():
            return cls.load(folder)
        return cls.create(folder, now)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the CA's own certificate, as join texts carry it."""
        return fingerprint(self.certificate)

    def issue_server(
        self,
        names: Sequence[str],
        addresses: Sequence[str],
        now: dt.datetime,
        *,
        valid_days: int = SERVER_VALID_DAYS,
    ) -> IssuedCertificate:
        """A certificate, with a new key, for a server with these DNS names and IP addresses."""
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        if not alternatives:
            message = "a server's certificate needs at least one name or address"
            raise CertificateRefusal(message)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._leaf(
            (list(names) + list(addresses))[0][:64], key.public_key(), now, valid_days
        )
        certificate = (
            builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return IssuedCertificate(
            certificate=certificate.public_bytes(serialization.Encoding.PEM), key=_key_pem(key)
        )

    def sign_host_request(
        self,
        request_pem: bytes,
        host_id: str,
        now: dt.datetime,
        *,
        valid_days: int = HOST_VALID_DAYS,
    ) -> bytes:
        """The certificate (PEM) of host `host_id` for the key in its signing request.

        Names and extensions that the request asks for are ignored: who the host is was settled by
        its enrolment. BadSigningRequest if the request is malformed, larger than 16 KiB, not
        signed by its own key, or if the key is anything but EC P-256.
        """
        if not _HOST_ID.fullmatch(host_id):
            message = "a host's id has 1 to 64 letters, digits, points, - and _"
            raise CertificateRefusal(message)
        if not HOST_VALID_DAYS_MIN <= valid_days <= HOST_VALID_DAYS_MAX:
            message = "a host's certificate is valid for 90 to 365 days"
            raise CertificateRefusal(message)
        public_key = _checked_request_key(request_pem)
        if public_key == self._key.public_key():
            message = "the signing request carries the key of the certificate authority"
            raise BadSigningRequest(message)
        uri = x509.UniformResourceIdentifier(HOST_URI_PREFIX + host_id)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        certificate = (
            self._leaf(host_id, public_key, now, valid_days)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def has_key(self, key_pem: bytes) -> bool:
        """Tell whether a private key (PEM) is this CA's."""
        key = serialization.load_pem_private_key(key_pem, password=None)
        return key.public_key() == self.certificate.public_key()

    def issued(self, certificate: x509.Certificate) -> bool:
        """Tell whether this CA signed a certificate."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _leaf(
        self,
        common_name: str,
        public_key: ec.EllipticCurvePublicKey,
        now: dt.datetime,
        valid_days: int,
    ) -> x509.CertificateBuilder:
        """What all certificates that we issue have in common."""
        # Never beyond the CA's own end: such a certificate would look valid and be refused.
        end = min(now + dt.timedelta(days=valid_days), self.certificate.not_valid_after_utc)
        start = max(now - CLOCK_SKEW, self.certificate.not_valid_before_utc)
        if start >= end:
            message = "the certificate authority is not valid at this time"
            raise CertificateRefusal(message)
        issuer_key = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key.value),
                critical=False,
            )
        )


def fingerprint(certificate: x509.Certificate | bytes) -> str:
    """SHA-256 of a certificate (or of its DER bytes), URL-safe base64 without padding."""
    if isinstance(certificate, x509.Certificate):
        certificate = certificate.public_bytes(serialization.Encoding.DER)
    digest = hashlib.sha256(certificate).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def host_id_of(certificate: x509.Certificate | bytes) -> str:
    """The id of the host that a certificate (or its DER bytes) names.

    NotAHostCertificate if there is not exactly one host URI, or if it and the common name differ.
    That the certificate is genuine and in its time is the TLS handshake's business.
    """
    try:
        if not isinstance(certificate, x509.Certificate):
            certificate = x509.load_der_x509_certificate(certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        message = "this certificate names no host"
        raise NotAHostCertificate(message) from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(uris) != 1 or len(names) != 1 or len(common_names) != 1:
        message = "a host's certificate has exactly one URI and one common name"
        raise NotAHostCertificate(message)
    host_id = uris[0].removeprefix(HOST_URI_PREFIX)
    if (
        uris[0] != HOST_URI_PREFIX + host_id
        or common_names[0].value != host_id
        or not _HOST_ID.fullmatch(host_id)
    ):
        message = "the certificate's URI and common name do not name one host"
        raise NotAHostCertificate(message)
    return host_id


def public_key_sha256(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """SHA-256 (hex) of the public key in a certificate or signing request, as it is pinned."""
    key = certificate.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def _self_signed(key: ec.EllipticCurvePrivateKey, now: dt.datetime) -> x509.Certificate:
    public_key = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    # The key's identifier is part of the name, so that two CAs which overlap have two names.
    common_name = f"Chronovisor internal CA {identifier.digest.hex()[:12]}"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=CA_VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _checked_request_key(request_pem: bytes) -> ec.EllipticCurvePublicKey:
    if len(request_pem) > REQUEST_BYTES_MAX:
        message = f"the signing request is larger than {REQUEST_BYTES_MAX} bytes"
        raise BadSigningRequest(message)
    try:
        request = x509.load_pem_x509_csr(request_pem)
        public_key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        message = "the signing request cannot be read"
        raise BadSigningRequest(message) from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        message = "the key of the signing request is not EC P-256"
        raise BadSigningRequest(message)
    if not signed:
        message = "the signing request is not signed by its own key"
        raise BadSigningRequest(message)
    return public_key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(read_bounded(path), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        message = f"{path} is not an EC P-256 key"
        raise BrokenAuthority(message)
    return key
