"""The engine's secret key, and what is derived from it.

One random key lies in a file of its own (mode 0600, part of every backup). Whatever else needs a
secret is derived from it by HMAC under a label, so that nothing more has to be stored, and so
that no secret ever has to appear in an event or in a stored answer.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from access.files import create_once, make_private_folder, read_bounded

KEY_BYTES = 32
KEY_FILE_NAME = "engine.key"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NONCE_BYTES = 12
_TOKEN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class UnusableKey(ValueError):
    """The engine's key file does not hold a 256-bit key in base64."""


class EngineSecret:
    """The engine's secret key. Its representation never shows the key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            message = f"the engine's key has {len(key)} bytes instead of {KEY_BYTES}"
            raise UnusableKey(message)
        self._body_key = _derive(key, "request body/1")
        self._enrolment_key = _derive(key, "host enrolment/1")
        self._migration_key = _derive(key, "migration ticket/1")
        self._vault = AESGCM(_derive(key, "vault/1"))

    @classmethod
    def load_or_create(cls, path: Path) -> "EngineSecret":
        """The key in the file, made at the first start."""
        if not path.exists():
            make_private_folder(path.parent)
            create_once(path, base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> "EngineSecret":
        """The key in the file; UnusableKey if it is not one."""
        text = read_bounded(path, bytes_max=4096).strip()
        try:
            key = base64.b64decode(text, altchars=b"-_", validate=True)
        except binascii.Error as error:
            message = f"{path} does not hold a key in base64"
            raise UnusableKey(message) from error
        return cls(key)

    def body_mac(self, body: bytes) -> bytes:
        """32 bytes that tell whether two request bodies are the same.

        An HMAC and not a hash, since a body may hold a password, which a hash would let anybody
        with the log search for (contract A, answers).
        """
        return hmac.digest(self._body_key, body, "sha256")

    def enrolment_secret(self, token_id: str) -> str:
        """The secret of a host's single-use enrolment token: always the same for one id.

        Being derived it is stored nowhere; the event that makes the token keeps `secret_digest`.
        """
        if not _TOKEN_ID.fullmatch(token_id):
            message = "an enrolment token's id has 1 to 64 letters, digits, - and _"
            raise ValueError(message)
        mac = hmac.digest(self._enrolment_key, token_id.encode(), "sha256")
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    def migration_ticket(self, migration: str, vm: str, destination: str) -> str:
        """The ticket by which one migration's source is let in at its destination.

        Being derived it is stored nowhere; the source is given it, the destination its digest.
        """
        text = f"{migration}/{vm}/{destination}".encode()
        mac = hmac.digest(self._migration_key, text, "sha256")
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    def seal(self, name: str, plain: bytes) -> bytes:
        """`plain` by AES-256-GCM, bound to a name: a fresh nonce of 12 bytes, then the text."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._vault.encrypt(nonce, plain, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """What was sealed under a name; UnusableKey by another engine's key, or if altered."""
        nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._vault.decrypt(nonce, text, name.encode())
        except (InvalidTag, ValueError) as error:
            message = f"{name} was sealed with another key, or was altered"
            raise UnusableKey(message) from error

    def enrolment_digest(self, token_id: str) -> str:
        """What an event keeps of an enrolment token: `secret_digest` of its secret."""
        return secret_digest(self.enrolment_secret(token_id))


def secret_digest(secret: str) -> str:
    """SHA-256 of a secret, in hexadecimal, as events keep it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def verify_enrolment(secret: str, digest: str) -> bool:
    """Whether `secret` is the one whose `secret_digest` an event kept, in constant time.

    Whether the token is still unused and unexpired is the host stream's knowledge, not ours.
    """
    if not _DIGEST.fullmatch(digest):
        return False
    return hmac.compare_digest(secret_digest(secret), digest)


def _derive(key: bytes, label: str) -> bytes:
    """A key for one purpose, so that a value made for one never passes for another."""
    return hmac.digest(key, b"chronovisor/" + label.encode(), "sha256")
