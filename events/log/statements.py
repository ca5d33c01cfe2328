"""The SQL statements of the log, each in a file of its own under `sql/`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import LiteralString

FOLDER = Path(__file__).parent / "sql"


@functools.cache
def statement(name: str) -> LiteralString:
    """Return the text of `sql/<name>.sql` without its comments."""
    lines = (FOLDER / f"{name}.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))
