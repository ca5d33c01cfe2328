"""Field types that commands share: bounded, with patterns, so that bad input is refused early."""

from __future__ import annotations

from typing import Annotated

import msgspec

NAME_PATTERN = r"^[A-Za-z0-9_.\-]*[A-Za-z0-9][A-Za-z0-9_.\-]*$"
"""Names: letters, digits, `_`, `.`, `-`, at least one of them a letter or digit; no spaces."""

MIB = 1024 * 1024

Id = Annotated[
    str,
    msgspec.Meta(
        min_length=36,
        max_length=36,
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
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
Description = Annotated[str, msgspec.Meta(max_length=4_000, description="Free text.")]
FileName = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=255,
        pattern=r"^[A-Za-z0-9_\-][A-Za-z0-9_.\-]*$",
        description="The name of a file in the host's storage folder, without any path.",
    ),
]
Bridge = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=15,
        pattern=r"^[A-Za-z0-9_.\-]+$",
        description="The name of a bridge on the host.",
    ),
]
