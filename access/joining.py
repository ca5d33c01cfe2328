"""The text that an admin hands to `chronovisor agent join`, and nothing else needs to be known."""

import re

import msgspec

JOIN_TEXT_CHARACTERS_MAX = 256
_JOIN = re.compile(
    r"cvj1\.(?P<token_id>[A-Za-z0-9_-]{1,64})"
    r"\.(?P<secret>[A-Za-z0-9_-]{43})"
    r"\.(?P<ca_fingerprint>[A-Za-z0-9_-]{43})"
)


class BadJoinText(ValueError):
    """This is not a join text: it is cut short, changed, or of another version."""


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    """A host's single-use enrolment token, with the fingerprint of the CA that it may trust.

    `secret` and `ca_fingerprint` are 32 bytes each in URL-safe base64 without padding.
    """

    token_id: str
    secret: str
    ca_fingerprint: str

    def __repr__(self) -> str:
        """Without the secret, so that a log line can not give it away."""
        return f"JoinToken(token_id={self.token_id!r})"


def format_join_token(token: JoinToken) -> str:
    """`cvj1.<token id>.<secret>.<CA fingerprint>`; BadJoinText if a part does not fit."""
    text = f"cvj1.{token.token_id}.{token.secret}.{token.ca_fingerprint}"
    parse_join_token(text)
    return text


def parse_join_token(text: str) -> JoinToken:
    """The parts of a join text; surrounding white space is forgiven, anything else refused."""
    stripped = text.strip() if len(text) <= JOIN_TEXT_CHARACTERS_MAX else ""
    match = _JOIN.fullmatch(stripped)
    if match is None:
        # The text itself stays out of the message: most of it is a secret.
        message = "not a join text of the form cvj1.<id>.<secret>.<fingerprint>"
        raise BadJoinText(message)
    return JoinToken(**match.groupdict())
