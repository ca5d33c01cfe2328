"""The agent's journal: what it began, did and promised, durable before it counts.

One file of lines, `<crc32 in hex> <JSON record>`, appended and flushed (fsync); rewritten compactly
by an atomic rename now and then. A torn last line, the trace of a crash while appending, is cut
off: what it said was not yet acted upon. Damage anywhere else counts as a loss, after which all
that can still be read is kept and nothing starts until the engine has heard what runs here.

A lock beside the file makes one agent its owner, for as long as that process lives.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from hostagent.files import flush_folder, make_private_folder, read_bounded, write_atomically
from hostagent.records import Lost, Record, Remembered, RunKey
from hostagent.tasks import forget

JOURNAL_NAME = "journal.log"
LOCK_NAME = "journal.lock"
BORN_NAME = "journal.born"
COMPACT_RECORDS_MIN = 1_000
COMPACT_GROWTH = 4
JOURNAL_BYTES_MAX = 1024 * 1024 * 1024

_log = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class JournalLockedError(Exception):
    """Another agent process owns this state folder."""


class Journal:
    """A durable memory of one host's agent; open it with `Journal.open`."""

    def __init__(self, folder: Path, lock_descriptor: int) -> None:
        self.known = Remembered()
        self.folder = folder
        self._path = folder / JOURNAL_NAME
        self._lock_descriptor = lock_descriptor
        self._writing = asyncio.Lock()
        self._records_in_file = 0
        self._records_compact = 0
        self._bytes_in_file = 0
        self._spoilt = False
        self._keep: frozenset[RunKey] = frozenset()

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """Lock and read the journal of a state folder, made where there never was one.

        Raises JournalLockedError where another process has it. If the file is gone although the
        folder once had it, or is damaged, `known.lost` is set.
        """
        make_private_folder(folder)
        journal = cls(folder, _take_lock(folder / LOCK_NAME))
        try:
            journal._read()
        except BaseException:
            journal.close()
            raise
        return journal

    async def finish(self) -> None:
        """Wait for what is being written, then close."""
        async with self._writing:
            self.close()

    def close(self) -> None:
        """Give the journal back; nothing more may be written."""
        if self._lock_descriptor >= 0:
            os.close(self._lock_descriptor)
            self._lock_descriptor = -1

    def keep(self, runs: Iterable[RunKey]) -> None:
        """Say which tombstones are still asked about, so that compaction keeps their reasons."""
        self._keep = frozenset(runs)

    async def write(self, *records: Record) -> None:
        """Make records durable, all or none as far as a crash can tell, then count them in.

        Raises OSError where the disk refuses; then they do not count. Not undone by cancellation.
        """
        await self._shielded(records, durable=True)

    async def note(self, *records: Record) -> None:
        """Write records whose loss in a crash does no harm; a refusing disk is not reported."""
        try:
            await self._shielded(records, durable=False)
        except OSError as error:
            _log.warning("journal note not written", error=str(error))

    async def _shielded(self, records: tuple[Record, ...], *, durable: bool) -> None:
        writing = asyncio.ensure_future(self._write(records, durable=durable))
        writing.add_done_callback(forget)
        await asyncio.shield(writing)

    async def _write(self, records: tuple[Record, ...], *, durable: bool) -> None:
        async with self._writing:
            if self._lock_descriptor < 0:
                raise OSError("the journal is closed")
            if self._spoilt or self._wants_compaction():
                await asyncio.to_thread(self._compact)
            data = b"".join(_line(record) for record in records)
            await asyncio.to_thread(self._append, data, durable=durable)
            self._records_in_file += len(records)
            for record in records:
                self.known.apply(record)

    def _wants_compaction(self) -> bool:
        limit = max(COMPACT_RECORDS_MIN, COMPACT_GROWTH * self._records_compact)
        return self._records_in_file > limit

    def _append(self, data: bytes, *, durable: bool) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
            self._bytes_in_file += len(data)
        except OSError:
            # After a failed write or fsync nobody knows what is in the file: the next write makes
            # it anew from memory, which holds only what did succeed.
            self._spoilt = True
            raise
        finally:
            os.close(descriptor)

    def _compact(self) -> None:
        records = self.known.compacted(self._keep)
        data = b"".join(_line(record) for record in records)
        write_atomically(self._path, data)
        self._records_in_file = self._records_compact = len(records)
        self._bytes_in_file = len(data)
        self._spoilt = False

    def _read(self) -> None:
        born = self.folder / BORN_NAME
        if self._path.exists():
            records, intact = _parse(read_bounded(self._path, bytes_max=JOURNAL_BYTES_MAX))
            self.known = Remembered(records)
            self._records_in_file = len(records)
            if not intact:
                _log.error("journal damaged; keeping what can be read", path=str(self._path))
                self.known.apply(Lost())
        elif born.exists():
            _log.error("journal lost", path=str(self._path))
            self.known.apply(Lost())
        # Written anew at each start: it cuts off a torn line before anything is appended to it.
        self._compact()
        if not born.exists():
            born.touch(mode=0o600)
            flush_folder(self.folder)


def _take_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise JournalLockedError(
            f"another agent already runs on {path.parent}; stop it first"
        ) from error
    return descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) != len(data):
        raise OSError("the journal was written in part only")


def _line(record: Record) -> bytes:
    body = _encoder.encode(record)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _parse(data: bytes) -> tuple[list[Record], bool]:
    """Return the readable records, and whether nothing but a torn last line is unreadable."""
    lines = data.split(b"\n")
    torn = lines.pop()  # empty, unless the last line has no end
    records = [_record(line) for line in lines]
    intact = all(record is not None for record in records[:-1])
    if torn and records and records[-1] is None:
        intact = False
    return [record for record in records if record is not None], intact


def _record(line: bytes) -> Record | None:
    head, _, body = line.partition(b" ")
    try:
        if int(head, 16) != zlib.crc32(body):
            return None
        return _decoder.decode(body)
    except (ValueError, msgspec.DecodeError):
        return None
