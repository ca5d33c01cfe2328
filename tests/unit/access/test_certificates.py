import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from access.certificates import (
    BadSigningRequest,
    BrokenAuthority,
    CertificateAuthority,
    CertificateRefusal,
    NotAHostCertificate,
    fingerprint,
    host_id_of,
)
from access.host_keys import make_host_key_and_request

NOW = dt.datetime(2026, 11, 21, 8, 30, 0, 123456, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", NOW)


def load(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def signing_request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "evil")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = request.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_ca_key_is_private_and_the_ca_loads_again(tmp_path: Path) -> None:
    made = CertificateAuthority.create(tmp_path / "ca", NOW)

    loaded = CertificateAuthority.load(tmp_path / "ca")

    assert loaded.fingerprint == made.fingerprint
    assert stat.S_IMODE((tmp_path / "ca" / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700
    assert sorted(path.name for path in (tmp_path / "ca").iterdir()) == [
        "ca.crt",
        "ca.key",
        "trust.crt",
    ]


def test_a_ca_is_never_replaced(tmp_path: Path) -> None:
    made = CertificateAuthority.create(tmp_path, NOW)

    with pytest.raises(FileExistsError):
        CertificateAuthority.create(tmp_path, NOW)

    assert CertificateAuthority.load_or_create(tmp_path, NOW).fingerprint == made.fingerprint


def test_a_creation_killed_before_its_certificate_is_completed_with_the_same_key(
    tmp_path: Path,
) -> None:
    CertificateAuthority.create(tmp_path, NOW)
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.crt").unlink()

    CertificateAuthority.load_or_create(tmp_path, NOW)

    assert (tmp_path / "ca.key").read_bytes() == key
    CertificateAuthority.load(tmp_path)


def test_a_ca_with_a_foreign_key_is_refused(tmp_path: Path) -> None:
    CertificateAuthority.create(tmp_path / "a", NOW)
    CertificateAuthority.create(tmp_path / "b", NOW)
    (tmp_path / "a" / "ca.key").write_bytes((tmp_path / "b" / "ca.key").read_bytes())

    with pytest.raises(BrokenAuthority, match="not the one of its certificate"):
        CertificateAuthority.load(tmp_path / "a")


def test_a_missing_ca_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BrokenAuthority, match=r"ca\.key is missing"):
        CertificateAuthority.load(tmp_path)


def test_a_host_certificate_names_its_host_and_nothing_the_request_asked_for(
    authority: CertificateAuthority,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())

    certificate = load(authority.sign_host_request(signing_request(key), "host-7", NOW))

    assert host_id_of(certificate) == "host-7"
    assert host_id_of(certificate.public_bytes(serialization.Encoding.DER)) == "host-7"
    assert certificate.public_key() == key.public_key()
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca is False
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert certificate.not_valid_after_utc - NOW > 364 * DAY
    assert certificate.not_valid_before_utc < NOW


def test_two_certificates_of_one_request_have_two_serials(
    authority: CertificateAuthority,
) -> None:
    request = signing_request(ec.generate_private_key(ec.SECP256R1()))

    first, second = (load(authority.sign_host_request(request, "h", NOW)) for _ in range(2))

    assert first.serial_number != second.serial_number
    assert fingerprint(first) != fingerprint(second)


def test_an_independent_verifier_accepts_server_and_host_and_no_other_ca(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    request = make_host_key_and_request(tmp_path / "host", "kvm01")
    host = load(authority.sign_host_request(request, "h1", NOW))
    server = load(authority.issue_server(["engine.example"], ["127.0.0.1"], NOW).certificate)
    other = CertificateAuthority.create(tmp_path / "other", NOW)

    def policy(ca: CertificateAuthority, time: dt.datetime = NOW) -> verification.PolicyBuilder:
        store = verification.Store([ca.certificate])
        return verification.PolicyBuilder().store(store).time(time)

    name = x509.DNSName("engine.example")
    policy(authority).build_server_verifier(name).verify(server, [])
    verified = policy(authority).build_client_verifier().verify(host, [])

    assert verified.chain[-1] == authority.certificate
    with pytest.raises(verification.VerificationError):
        policy(other).build_client_verifier().verify(host, [])
    with pytest.raises(verification.VerificationError):
        policy(authority, NOW + 400 * DAY).build_client_verifier().verify(host, [])
    with pytest.raises(verification.VerificationError):
        policy(authority).build_client_verifier().verify(server, [])


@pytest.mark.parametrize(
    "request_pem",
    [
        b"",
        b"hello",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        b"x" * 20_000,
    ],
)
def test_what_is_no_request_is_refused(authority: CertificateAuthority, request_pem: bytes) -> None:
    with pytest.raises(BadSigningRequest):
        authority.sign_host_request(request_pem, "h1", NOW)


@pytest.mark.parametrize("kind", ["rsa", "p384"])
def test_a_key_of_another_kind_is_refused(authority: CertificateAuthority, kind: str) -> None:
    key = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP384R1())
    )

    with pytest.raises(BadSigningRequest, match=r"not EC P-256"):
        authority.sign_host_request(signing_request(key), "h1", NOW)


def test_a_request_with_a_changed_signature_is_refused(authority: CertificateAuthority) -> None:
    pem = signing_request(ec.generate_private_key(ec.SECP256R1()))
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    at = der.find(b"evil")
    der[at : at + 4] = b"good"
    changed = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)

    with pytest.raises(BadSigningRequest, match="not signed by its own key"):
        authority.sign_host_request(changed, "h1", NOW)


def test_the_key_of_the_ca_itself_is_refused(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    key = serialization.load_pem_private_key((tmp_path / "ca" / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)

    with pytest.raises(BadSigningRequest, match="certificate authority"):
        authority.sign_host_request(signing_request(key), "h1", NOW)


@pytest.mark.parametrize("host_id", ["", "a b", "x" * 65, "-x", "a/b", "h1\n"])
def test_an_odd_host_id_is_refused(authority: CertificateAuthority, host_id: str) -> None:
    request = signing_request(ec.generate_private_key(ec.SECP256R1()))

    with pytest.raises(CertificateRefusal, match="host's id"):
        authority.sign_host_request(request, host_id, NOW)


@pytest.mark.parametrize("valid_days", [0, 89, 366])
def test_a_validity_out_of_bounds_is_refused(
    authority: CertificateAuthority, valid_days: int
) -> None:
    request = signing_request(ec.generate_private_key(ec.SECP256R1()))

    with pytest.raises(CertificateRefusal, match="90 to 365"):
        authority.sign_host_request(request, "h1", NOW, valid_days=valid_days)


def test_no_certificate_outlives_its_ca(authority: CertificateAuthority) -> None:
    late = authority.certificate.not_valid_after_utc - 30 * DAY

    certificate = load(authority.issue_server(["a"], [], late).certificate)

    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(CertificateRefusal, match="not valid at this time"):
        authority.issue_server(["a"], [], late + 31 * DAY)


def test_a_server_certificate_is_no_host_certificate(authority: CertificateAuthority) -> None:
    issued = authority.issue_server(["h1"], [], NOW)

    with pytest.raises(NotAHostCertificate):
        host_id_of(load(issued.certificate))
    with pytest.raises(NotAHostCertificate):
        host_id_of(b"not DER")
    with pytest.raises(NotAHostCertificate):
        host_id_of(authority.certificate)


def test_a_server_certificate_needs_a_name(authority: CertificateAuthority) -> None:
    with pytest.raises(CertificateRefusal, match="at least one"):
        authority.issue_server([], [], NOW)


def test_a_private_key_does_not_show_in_a_representation(
    authority: CertificateAuthority,
) -> None:
    assert "PRIVATE" not in repr(authority.issue_server(["a"], [], NOW))
