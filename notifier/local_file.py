"""The channel of last resort: a file of JSON lines, for as long as nothing else is configured."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from notifier.channel import DeliveryError
from notifier.notification import Notification

TRANSPORT = "file"
AT_ONCE_MAX = 256
TAIL_BYTES = 1024 * 1024
"""More than `AT_ONCE_MAX` lines take."""


class _Line(msgspec.Struct):
    """A line, as far as it is read again."""

    id: str


class FileChannel:
    """Appends notifications to a file, each once: lines are flushed before they count as told.

    After a kill the last line may be torn, and the last ones be there without being counted: the
    first is cut off and the others are recognised by their ids.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: set[str] | None = None
        self._lock = asyncio.Lock()

    @property
    def transport(self) -> str:
        """The transport's name in filters."""
        return TRANSPORT

    def addresses(self, name: str) -> tuple[str, ...]:
        """Return the file's name: there is but one."""
        return (name,)

    @property
    def at_once_max(self) -> int:
        """As many as one flush of the disk is to be shared by."""
        return AT_ONCE_MAX

    async def deliver(self, address: str, notifications: Sequence[Notification]) -> None:
        """Append a line for each and flush them."""
        del address
        async with self._lock:
            try:
                await asyncio.to_thread(self._append, notifications)
            except OSError as error:
                raise DeliveryError(f"{self._path}: {error.strerror}") from error

    async def close(self) -> None:
        """Nothing is held open."""

    def _append(self, notifications: Sequence[Notification]) -> None:
        if self._written is None:
            self._written = self._mend()
        new = [each for each in notifications if each.id not in self._written]
        if not new:
            return
        content = b"".join(
            msgspec.json.encode({"id": each.id, **msgspec.to_builtins(each)}) + b"\n"
            for each in new
        )
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if os.write(descriptor, content) != len(content):
                self._written = None  # a full disk tore a line: mend it before the next try
                raise OSError(28, "no space left")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._written = {each.id for each in notifications}

    def _mend(self) -> set[str]:
        """Cut off a torn last line; return the ids in the last whole ones."""
        if not self._path.exists():
            return set()
        with self._path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            begin = file.seek(max(0, size - TAIL_BYTES))
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole != len(content):
                file.truncate(begin + whole)
        last = content[:whole].splitlines()[-AT_ONCE_MAX:]
        if begin and len(last) < AT_ONCE_MAX:
            del last[:1]  # its beginning may lie before what was read
        return {msgspec.json.decode(line, type=_Line).id for line in last}
