"""Field types that commands share: bounded, with patterns, so that bad input is refused early."""

from __future__ import annotations

from typing import Annotated

import msgspec

END = r"(?!\n)$"
"""The end of a text: a bare `$` lets one more line end pass, here but not in JSON Schema."""

NAME_PATTERN = r"^[A-Za-z0-9_.\-]*[A-Za-z0-9][A-Za-z0-9_.\-]*" + END
"""Names: letters, digits, `_`, `.`, `-`, at least one of them a letter or digit; no spaces."""

MIB = 1024 * 1024

Id = Annotated[
    str,
    msgspec.Meta(
        min_length=36,
        max_length=36,
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}" + END,
        description="An object's id: a UUID in lower case.",
    ),
]
Name = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=255,
        pattern=NAME_PATTERN,
        description="A name of at most 255 letters, digits, '_', '.' or '-'; no spaces.",
    ),
]
Description = Annotated[
    str,
    msgspec.Meta(
        max_length=4_000,
        pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$",
        description="Free text of at most 4,000 characters, without control characters.",
    ),
]
FileName = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=255,
        pattern=r"^[A-Za-z0-9_\-][A-Za-z0-9_.\-]*" + END,
        description="The name of a file in the host's storage folder, without any path.",
    ),
]
SECRET = "secret"  # noqa: S105 - the name of the mark
"""The mark of a field whose value goes into the vault, in its type's `extra`."""
Secret = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=1024,
        pattern=r"^[^\x00-\x1f\x7f]*" + END,
        description="A secret of at most 1,024 characters, without control characters. It is kept"
        " sealed, and never shown again.",
        extra_json_schema={"format": "password", "writeOnly": True},
        extra={SECRET: True},
    ),
]
"""A secret. Where it decides, a command has its reference to the vault there (`vault/<uuid>`)."""
Bridge = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=15,
        pattern=r"^[A-Za-z0-9_.\-]+" + END,
        description="The name of a bridge on the host.",
    ),
]
