"""The passphrase of a backup: argon2id makes two keys of it, one to seal with and one to sign with.

AES-256-GCM seals the part that holds the secrets; HMAC-SHA256 signs the manifest, whose checksums
vouch for everything else: whoever does not know the passphrase can neither read the secrets nor
alter anything unnoticed.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from access.files import read_bounded
from chronovisor.backup_format import BackupError, BrokenBackupError, Sealing, SecretsSealedError

MEMORY_KIB = 64 * 1024
MEMORY_KIB_MAX = 1024 * 1024
ITERATIONS = 3
ITERATIONS_MAX = 50
LANES = 4
LANES_MAX = 16
KEY_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 12
PASSPHRASE_BYTES_MIN = 12
PASSPHRASE_BYTES_MAX = 4096


class Sealer:
    """Seals and opens; made of a passphrase and the manifest's parameters."""

    def __init__(self, passphrase: bytes, sealing: Sealing) -> None:
        _require_sane(sealing)
        derivation = Argon2id(
            salt=sealing.salt,
            length=2 * KEY_BYTES,
            iterations=sealing.iterations,
            lanes=sealing.lanes,
            memory_cost=sealing.memory_kib,
        )
        keys = derivation.derive(passphrase)
        self.sealing = sealing
        self._cipher = AESGCM(keys[:KEY_BYTES])
        self._signing_key = keys[KEY_BYTES:]

    @classmethod
    def new(cls, passphrase: bytes) -> Sealer:
        """Return a sealer with fresh salt and nonce; it seals one part only."""
        return cls(
            passphrase,
            Sealing(
                salt=secrets.token_bytes(SALT_BYTES),
                nonce=secrets.token_bytes(NONCE_BYTES),
                memory_kib=MEMORY_KIB,
                iterations=ITERATIONS,
                lanes=LANES,
            ),
        )

    def seal(self, name: str, content: bytes) -> bytes:
        """Return the content sealed, bound to the part's name."""
        return self._cipher.encrypt(self.sealing.nonce, content, name.encode())

    def open(self, name: str, content: bytes) -> bytes:
        """Return what was sealed; raises SecretsSealedError with another passphrase."""
        try:
            return self._cipher.decrypt(self.sealing.nonce, content, name.encode())
        except InvalidTag:
            raise SecretsSealedError(f"{name} does not open with this passphrase") from None

    def sign(self, manifest: bytes) -> bytes:
        """Return the manifest's signature."""
        return hmac.digest(self._signing_key, manifest, "sha256")

    def check(self, manifest: bytes, signature: bytes) -> None:
        """Raise SecretsSealedError unless the signature was made with this passphrase."""
        if not hmac.compare_digest(self.sign(manifest), signature):
            raise SecretsSealedError(
                "the passphrase is not the backup's, or its manifest was altered"
            )


def read_passphrase(path: Path) -> bytes:
    """Return the passphrase of a file, without the line's end; raises BackupError."""
    try:
        passphrase = read_bounded(path, bytes_max=PASSPHRASE_BYTES_MAX).rstrip(b"\r\n")
    except (OSError, ValueError) as error:
        raise BackupError(f"the passphrase file cannot be read: {error}") from error
    if len(passphrase) < PASSPHRASE_BYTES_MIN:
        raise BackupError(f"the passphrase in {path} is shorter than {PASSPHRASE_BYTES_MIN} bytes")
    return passphrase


def _require_sane(sealing: Sealing) -> None:
    """Refuse parameters that no backup of ours has: they could take all memory."""
    sane = (
        8 * sealing.lanes <= sealing.memory_kib <= MEMORY_KIB_MAX
        and 0 < sealing.iterations <= ITERATIONS_MAX
        and 0 < sealing.lanes <= LANES_MAX
        and len(sealing.salt) == SALT_BYTES
        and len(sealing.nonce) == NONCE_BYTES
    )
    if not sane:
        raise BrokenBackupError("the manifest's parameters for the passphrase make no sense")
