"""The bootstrap admin token, and the check of the token that a request carries."""

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from access.files import create_once, make_private_folder, read_bounded
from access.principals import BOOTSTRAP_ADMIN, Principal

TOKEN_BYTES = 32
TOKEN_FILE_NAME = "admin.token"  # noqa: S105  the name of a file, not a token
HEADER_CHARACTERS_MAX = 512
_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,256}")


class UnusableToken(ValueError):
    """A token file does not hold exactly one token."""


def ensure_admin_token(path: Path) -> bool:
    """Make the bootstrap admin token at the first start; say whether this call made it.

    The file holds one line, 256 random bits in URL-safe base64, and has mode 0600.
    """
    make_private_folder(path.parent)
    if path.exists():
        read_token(path)
        return False
    return create_once(path, secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n")


def read_token(path: Path) -> str:
    """The token in a file; UnusableToken if the file holds anything else."""
    text = read_bounded(path, bytes_max=4096).decode("ascii", errors="replace").strip()
    if not _TOKEN.fullmatch(text):
        message = f"{path} does not hold a token: one line of 20 to 256 letters, digits, - and _"
        raise UnusableToken(message)
    return text


def token_digest(token: str) -> bytes:
    """What is kept of a token: its SHA-256.

    A plain hash is enough because tokens are 256 random bits, which nobody can search; only
    passwords need a slow one.
    """
    return hashlib.sha256(token.encode()).digest()


def bearer_token(header: str | bytes | None) -> str | None:
    """The token of an `Authorization: Bearer <token>` header (RFC 6750), None if there is none.

    Nothing longer than HEADER_CHARACTERS_MAX is looked at, and only a token's own characters pass.
    """
    if header is None or len(header) > HEADER_CHARACTERS_MAX:
        return None
    text = header.decode("latin-1") if isinstance(header, bytes) else header
    scheme, _, rest = text.partition(" ")
    token = rest.strip(" ")
    if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token):
        return None
    return token


class TokenVerifier:
    """Tells whose token a request carries. Keeps digests only, and compares in constant time."""

    def __init__(self, digests: dict[bytes, Principal]) -> None:
        self._digests = tuple(digests.items())

    @classmethod
    def from_admin_token_file(cls, path: Path) -> "TokenVerifier":
        """A verifier that knows the bootstrap admin only."""
        return cls({token_digest(read_token(path)): BOOTSTRAP_ADMIN})

    def principal(self, header: str | bytes | None) -> Principal | None:
        """Whose `Authorization` header this is; None if it is nobody's."""
        token = bearer_token(header)
        if token is None:
            return None
        presented = token_digest(token)
        found = None
        # No early exit: the time taken does not tell which digest was nearly right.
        for digest, principal in self._digests:
            if hmac.compare_digest(digest, presented):
                found = principal
        return found
