"""The host's side of enrolment: its key is made on the host and never leaves it."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from access.certificates import CertificateRefusal
from access.files import create_once, make_private_folder, read_bounded

HOST_KEY_NAME = "host.key"
NAME_CHARACTERS_MAX = 64


def make_host_key_and_request(folder: Path, name: str) -> bytes:
    """Make the host's EC P-256 key in `folder/host.key` (mode 0600) and a signing request (PEM).

    An existing key is used again: a host that repeats its joining after a crash or a lost answer
    stays the same machine to the engine. `name` is for the people who approve; the certificate
    will name the host's id.
    """
    make_private_folder(folder)
    path = folder / HOST_KEY_NAME
    if not path.exists():
        fresh = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        create_once(path, fresh)
    try:
        key = serialization.load_pem_private_key(read_bounded(path), password=None)
    except ValueError as error:
        message = f"{path} is not a private key"
        raise CertificateRefusal(message) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        message = f"{path} is not an EC P-256 key"
        raise CertificateRefusal(message)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:NAME_CHARACTERS_MAX])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
