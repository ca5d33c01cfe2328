"""The engine's own SSH key: what it shows to hosts that it installs, and to restart agents."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from access.files import create_once, make_private_folder, read_bounded

KEY_NAME = "engine_ed25519"
COMMENT = "chronovisor"


class SshKey:
    """An ed25519 key pair: `private` in OpenSSH's form, `public` a line of authorized_keys."""

    def __init__(self, private: bytes) -> None:
        key = serialization.load_ssh_private_key(private, password=None)
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise ValueError("the engine's SSH key is no ed25519 key")  # noqa: TRY004 - damaged
        self.private = private
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        self.public = f"{public.decode('ascii')} {COMMENT}"
        self._blob = base64.b64decode(public.split()[1])

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint as OpenSSH shows it: `SHA256:...`."""
        digest = base64.b64encode(hashlib.sha256(self._blob).digest()).decode("ascii")
        return f"SHA256:{digest.rstrip('=')}"

    @classmethod
    def load_or_create(cls, folder: Path) -> SshKey:
        """Return the key in `folder` (mode 0600), made at the first start.

        Raises OSError, or ValueError where it is damaged.
        """
        make_private_folder(folder)
        path = folder / KEY_NAME
        if not path.exists():
            fresh = ed25519.Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            )
            create_once(path, fresh)
        try:
            return cls(read_bounded(path))
        except ValueError as error:
            message = f"{path} is not the engine's SSH key: {error}"
            raise ValueError(message) from error
