"""Writing and reading backup files, part by part, in bounded memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self, cast

import msgspec

from access.files import PRIVATE_MODE, flush_folder
from chronovisor.backup_format import (
    CHUNK_BYTES,
    FORMAT,
    MANIFEST_BYTES_MAX,
    MANIFEST_MAC_NAME,
    MANIFEST_NAME,
    SEAL_BYTES,
    SEAL_PREFIX,
    BackupError,
    BrokenBackupError,
    Manifest,
    Part,
    Scope,
)
from chronovisor.backup_seal import Sealer

COMPRESSION_LEVEL = 1
_WHEN = (1980, 1, 1, 0, 0, 0)  # zip's own times are local and say nothing; the manifest's count
_ODD_FILE = (
    *(zipfile.BadZipFile, zlib.error, EOFError),
    *(KeyError, NotImplementedError, RuntimeError, ValueError, OSError),
)
"""What Python's zipfile raises for a file that is none, or is damaged."""


class Sink(Protocol):
    """Where a part's bytes go."""

    def write(self, content: bytes | bytearray | memoryview) -> object:
        """Take the next bytes."""
        ...


class _Sealed:
    """A file that is only appended to, and whose SHA-256 leaves out the last `SEAL_BYTES`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._last = b""

    def write(self, content: bytes) -> int:
        """Write, and hash what can be no part of the seal any more."""
        count = self._file.write(content)
        tail = self._last + bytes(content)
        self._digest.update(tail[:-SEAL_BYTES])
        self._last = tail[-SEAL_BYTES:]
        return count

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._file.flush()

    def put_seal(self) -> None:
        """Write the digest over the placeholder at the file's end."""
        self._file.seek(-SEAL_BYTES, os.SEEK_END)
        self._file.write(SEAL_PREFIX + self._digest.hexdigest().encode())
        self._file.flush()
        os.fsync(self._file.fileno())


class _PartSink:
    """Counts and hashes what is written into an entry."""

    def __init__(self, entry: IO[bytes]) -> None:
        self._entry = entry
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, content: bytes | bytearray | memoryview) -> None:
        """Write the next bytes of the part."""
        self._entry.write(content)
        self.digest.update(content)
        self.bytes += len(content)


class BackupWriter:
    """Writes a backup beside its name and puts it there, whole, at the end.

    Use it as a context manager; without `finish` nothing is left behind.
    """

    def __init__(self, path: Path) -> None:
        self.parts: list[Part] = []
        self._path = path
        self._draft = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"

    def __enter__(self) -> Self:
        """Begin the file, for its owner only; BackupError where that cannot be."""
        if self._path.exists():
            raise BackupError(f"{self._path} exists already; a backup is never overwritten")
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(self._draft, flags, PRIVATE_MODE)
        except OSError as error:
            raise BackupError(f"{self._path} cannot be written: {error}") from error
        self._file = os.fdopen(descriptor, "w+b")
        self._sealed = _Sealed(self._file)
        self._zip = zipfile.ZipFile(cast("IO[bytes]", self._sealed), "w", allowZip64=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what was not finished."""
        self._zip.fp = None  # nothing more is written, when it is collected neither
        with contextlib.suppress(OSError, ValueError):
            self._file.close()
        self._draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def part(
        self, name: str, scope: Scope, *, compressed: bool = True, sealed: bool = False
    ) -> Iterator[Sink]:
        """Write one part for the length of a `with` block."""
        with self._entry(name, compressed=compressed) as entry:
            sink = _PartSink(entry)
            yield sink
        digest = sink.digest.hexdigest()
        self.parts.append(
            Part(name=name, scope=scope, bytes=sink.bytes, sha256=digest, sealed=sealed)
        )

    def finish(self, manifest: Manifest, sealer: Sealer | None) -> None:
        """Write the manifest and the seal, and give the file its name; durable on return."""
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        with self._entry(MANIFEST_NAME, compressed=True) as entry:
            entry.write(content)
        if sealer is not None:
            with self._entry(MANIFEST_MAC_NAME, compressed=False) as entry:
                entry.write(sealer.sign(content))
        self._zip.comment = b"\0" * SEAL_BYTES
        self._zip.close()
        self._sealed.put_seal()
        self._file.close()
        _take_name(self._draft, self._path)
        flush_folder(self._path.parent)

    def _entry(self, name: str, *, compressed: bool) -> IO[bytes]:
        info = zipfile.ZipInfo(name, _WHEN)
        info.external_attr = PRIVATE_MODE << 16
        info.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        info._compresslevel = COMPRESSION_LEVEL  # type: ignore[attr-defined]  # noqa: SLF001
        return self._zip.open(info, "w", force_zip64=True)


class BackupReader:
    """A backup file that is open for reading. Raises BrokenBackupError for what is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise BackupError(f"{path} cannot be read: {error}") from error
        try:
            self._zip = zipfile.ZipFile(self._file)
            self.manifest_bytes = self._small(MANIFEST_NAME)
            self.manifest = msgspec.json.decode(self.manifest_bytes, type=Manifest)
        except (*_ODD_FILE, msgspec.MsgspecError) as error:
            self._file.close()
            raise BrokenBackupError(f"{path} is no whole backup: {error}") from error
        if self.manifest.format != FORMAT:
            self._file.close()
            raise BackupError(
                f"{path} has format {self.manifest.format} and was made by Chronovisor"
                f" {self.manifest.product_version}; this release reads format {FORMAT}"
            )

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._zip.close()
        self._file.close()

    @property
    def size_bytes(self) -> int:
        """The size of the whole file."""
        return os.fstat(self._file.fileno()).st_size

    def check_seal(self) -> Iterator[int]:
        """Read the whole file, yielding how many bytes are read so far, and compare its seal."""
        digest = hashlib.sha256()
        left = self.size_bytes - SEAL_BYTES
        done = 0
        with self.path.open("rb") as source:
            while left > 0:
                chunk = source.read(min(CHUNK_BYTES, left))
                if not chunk:
                    break
                digest.update(chunk)
                left -= len(chunk)
                done += len(chunk)
                yield done
            seal = source.read()
        if seal != SEAL_PREFIX + digest.hexdigest().encode():
            raise BrokenBackupError(
                f"{self.path} was cut short or altered: its checksum does not match"
            )

    def signature(self) -> bytes | None:
        """Return the manifest's signature, None if the backup has no passphrase."""
        if MANIFEST_MAC_NAME not in self._zip.namelist():
            return None
        return self._small(MANIFEST_MAC_NAME)

    def check_names(self) -> None:
        """Raise BrokenBackupError unless the file has the manifest's parts and nothing else."""
        expected = {part.name for part in self.manifest.parts} | {MANIFEST_NAME}
        if self.manifest.sealing is not None:
            expected.add(MANIFEST_MAC_NAME)
        found = self._zip.namelist()
        if len(found) != len(set(found)) or set(found) != expected:
            odd = sorted(set(found) ^ expected) or ["an entry that is there twice"]
            raise BrokenBackupError(f"the manifest does not agree with the file: {', '.join(odd)}")

    def chunks(self, part: Part) -> Iterator[bytes]:
        """Yield a part's bytes; raises BrokenBackupError at the end if they are not its own."""
        digest, count = hashlib.sha256(), 0
        try:
            with self._zip.open(part.name) as entry:
                while chunk := entry.read(CHUNK_BYTES):
                    digest.update(chunk)
                    count += len(chunk)
                    if count > part.bytes:
                        break
                    yield chunk
        except _ODD_FILE as error:
            raise BrokenBackupError(f"part {part.name} cannot be read: {error}") from error
        if count != part.bytes or digest.hexdigest() != part.sha256:
            raise BrokenBackupError(f"part {part.name} was altered: its checksum does not match")

    def content(self, part: Part, bytes_max: int) -> bytes:
        """Return a small part whole; raises BrokenBackupError."""
        if part.bytes > bytes_max:
            raise BrokenBackupError(f"part {part.name} has {part.bytes} B, {bytes_max} at most")
        return b"".join(self.chunks(part))

    def _small(self, name: str) -> bytes:
        with self._zip.open(name) as entry:
            content: bytes = entry.read(MANIFEST_BYTES_MAX + 1)
        if len(content) > MANIFEST_BYTES_MAX:
            raise BrokenBackupError(f"{name} is larger than any honest one")
        return content


def _take_name(draft: Path, path: Path) -> None:
    """Give a finished file its name, unless another has taken it meanwhile."""
    try:
        os.link(draft, path)  # fails where a rename would silently replace the other's file
    except FileExistsError:
        raise BackupError(f"{path} exists already; a backup is never overwritten") from None
    except OSError:
        draft.rename(path)  # a file system without hard links
    draft.unlink(missing_ok=True)
