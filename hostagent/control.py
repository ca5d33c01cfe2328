"""Words to simulated machines from outside the agent's process, as files in a folder.

`say` puts one file, whole at once; the agent's process takes and removes it. For tests and
demonstrations: a folder costs nothing while nobody speaks.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import msgspec
import structlog

from hostagent.files import make_private_folder, read_bounded, write_atomically
from hostagent.simulated_state import Control

_SUFFIX = ".control.json"
_log = structlog.get_logger(__name__)


class _Word(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    control: Control


def say(folder: Path, host: str, control: Control) -> None:
    """Tell the simulated machine of `host` (its name or id) something."""
    make_private_folder(folder)
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex}{_SUFFIX}"
    word = _Word(host=host, control=control)
    write_atomically(folder / name, msgspec.json.encode(word), durable=False)


class ControlFolder:
    """The listening side of the folder."""

    def __init__(self, folder: Path) -> None:
        make_private_folder(folder)
        self._folder = folder

    def take(self) -> list[tuple[str, Control]]:
        """Return the words said since the last time, in order, each with its host."""
        words: list[tuple[str, Control]] = []
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                word = msgspec.json.decode(read_bounded(path), type=_Word)
                words.append((word.host, word.control))
            except (OSError, ValueError) as error:
                _log.warning("not understood", file=path.name, error=str(error))
            path.unlink(missing_ok=True)
        return words
