"""The channel of last resort: a file of JSON lines, for as long as nothing else is configured."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from notifier.channel import DeliveryError
from notifier.notification import Notification

TRANSPORT = "file"
TAIL_BYTES = 1024 * 1024


class FileChannel:
    """Appends notifications to a file, each once: a line is flushed before it counts as told.

    After a kill the last line may be torn, or be there without being counted: the first is cut off
    and the second recognised by its id.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_id: str | None = None
        self._lock = asyncio.Lock()

    @property
    def transport(self) -> str:
        """The transport's name in filters."""
        return TRANSPORT

    def addresses(self, name: str) -> tuple[str, ...]:
        """Return the file's name: there is but one."""
        return (name,)

    async def deliver(self, address: str, notification: Notification) -> None:
        """Append a line and flush it."""
        del address
        async with self._lock:
            try:
                await asyncio.to_thread(self._append, notification)
            except OSError as error:
                raise DeliveryError(f"{self._path}: {error.strerror}") from error

    async def close(self) -> None:
        """Nothing is held open."""

    def _append(self, notification: Notification) -> None:
        if self._last_id is None:
            self._last_id = self._mend()
        if self._last_id == notification.id:
            return
        line = {"id": notification.id, **msgspec.to_builtins(notification)}
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            content = msgspec.json.encode(line) + b"\n"
            if os.write(descriptor, content) != len(content):
                self._last_id = None  # a full disk tore the line: mend it before the next try
                raise OSError(28, "no space left")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._last_id = notification.id

    def _mend(self) -> str:
        """Cut off a torn last line; return the id in the last whole one, empty if there is none."""
        if not self._path.exists():
            return ""
        with self._path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            begin = file.seek(max(0, size - TAIL_BYTES))
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole != len(content):
                file.truncate(begin + whole)
        lines = content[:whole].splitlines()
        if not lines:
            return ""
        last: dict[str, object] = msgspec.json.decode(lines[-1])
        return str(last.get("id", ""))
