"""Files of the storage folder: found without ever leaving it, judged, and put in place whole."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import msgspec

from hostagent.domain_xml import storage_path
from hostagent.driver import DriverError

QCOW2_MAGIC = b"QFI\xfb"
QCOW2_HEADER = struct.Struct(">4sIQIIQ")  # magic, version, backing offset and size, bits, size
QCOW2_INCOMPATIBLE_OFFSET = 72
QCOW2_EXTERNAL_DATA = 1 << 2
QCOW2_CORRUPT = 1 << 1
STORAGE_ID_NAME = "storage-id"
STORAGE_ID_BYTES_MAX = 200
SAVED_MAGIC = b"LibvirtQemudSave"
UNFINISHED_MAGIC = b"LibvirtQemudPart"
HEADER_BYTES = 104
# Formats that are neither qcow2 nor raw, by what their files begin with: copied as raw they would
# make a disk of nonsense.
OTHER_FORMATS = {
    b"QED\0": "QED",
    b"KDMV": "VMDK",
    b"COWD": "VMDK",
    b"conectix": "VHD",
    b"vhdxfile": "VHDX",
    b"# Disk DescriptorFile": "VMDK",
    b"<<< ": "VDI",
}


class Qcow2(msgspec.Struct, frozen=True, kw_only=True):
    """What matters of a qcow2 file's header; the size is the guest's, in bytes."""

    size_bytes: int
    refers_to_others: bool
    corrupt: bool


def read_qcow2(header: bytes) -> Qcow2 | None:
    """Read the first HEADER_BYTES of a file; None if it is not qcow2."""
    if len(header) < QCOW2_HEADER.size or not header.startswith(QCOW2_MAGIC):
        return None
    _, version, backing_offset, _, _, size = QCOW2_HEADER.unpack_from(header)
    bits = 0
    if version >= 3 and len(header) >= QCOW2_INCOMPATIBLE_OFFSET + 8:  # noqa: PLR2004
        (bits,) = struct.unpack_from(">Q", header, QCOW2_INCOMPATIBLE_OFFSET)
    return Qcow2(
        size_bytes=size,
        refers_to_others=bool(backing_offset or bits & QCOW2_EXTERNAL_DATA),
        corrupt=bool(bits & QCOW2_CORRUPT),
    )


def image_format(name: str, header: bytes) -> str:
    """Return raw or qcow2 for an image to copy from; raises DriverError for anything else.

    The name declares the format where it ends in .raw or .qcow2. Else the file's beginning may
    say qcow2, which is harmless because images that name other files are refused.
    """
    qcow2 = read_qcow2(header)
    if name.endswith(".raw"):
        return "raw"
    if qcow2 is not None:
        if qcow2.refers_to_others:
            raise DriverError(f"image {name} refers to another file: refused")
        if qcow2.corrupt:
            raise DriverError(f"image {name} is marked as corrupt")
        return "qcow2"
    if name.endswith(".qcow2"):
        raise DriverError(f"image {name} is not a qcow2 file")
    for magic, other in OTHER_FORMATS.items():
        if header.startswith(magic):
            raise DriverError(f"image {name} is {other}; only qcow2 and raw can be used")
    return "raw"


class Storage:
    """The storage folder. Names are relative to it; nothing outside is ever read or removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def path(self, name: str) -> Path:
        """Return the path of a name; raises DriverError if it leads out of the folder.

        The folder that the file lies in is followed through symbolic links, and so is the file;
        neither may lead outside.
        """
        try:
            path = Path(storage_path(str(self.folder), name))
        except ValueError as error:
            raise DriverError(str(error)) from error
        for place in (path.parent.resolve(), path.resolve()):
            if not place.is_relative_to(self.folder):
                raise DriverError(f"{name!r} leads out of the storage folder")
        return path

    def existing(self, name: str) -> Path:
        """Return the path of a file that is there; raises DriverError, never makes one."""
        path = self.path(name)
        if not path.is_file():
            raise DriverError(f"file {name!r} is missing in the storage folder")
        return path

    def header(self, path: Path) -> bytes:
        """Return the first bytes of a file."""
        with path.open("rb") as file:
            return file.read(HEADER_BYTES)

    def check_disk(self, name: str) -> Path:
        """Return the path of a volume that a VM may be started with; raises DriverError."""
        path = self.existing(name)
        qcow2 = read_qcow2(self.header(path))
        if qcow2 is None:
            raise DriverError(f"volume {name!r} is not a qcow2 file")
        if qcow2.refers_to_others:
            raise DriverError(f"volume {name!r} refers to another file: refused")
        return path

    def whole_size(self, name: str) -> int | None:
        """Return the size of a whole volume (the guest's) or of a whole saved memory file."""
        path = self.path(name)
        try:
            header = self.header(path)
        except FileNotFoundError:
            return None
        qcow2 = read_qcow2(header)
        if qcow2 is not None:
            return qcow2.size_bytes
        if header.startswith(UNFINISHED_MAGIC):
            return None
        return path.stat().st_size

    def is_whole_memory(self, path: Path) -> bool:
        """Whether a file is saved memory that was written to its end.

        libvirt marks the file as unfinished at first, and as whole after its last byte.
        """
        try:
            return self.header(path).startswith(SAVED_MAGIC)
        except FileNotFoundError:
            return False

    def version(self, path: Path) -> str:
        """Return what changes whenever somebody writes to the file; "" if it is not there."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return ""
        return f"{status.st_size}-{status.st_mtime_ns}"

    def path_to_remove(self, name: str) -> Path:
        """Return the path of a name whose folder lies inside, wherever the file itself may point;
        raises DriverError.
        """
        try:
            path = Path(storage_path(str(self.folder), name))
        except ValueError as error:
            raise DriverError(str(error)) from error
        if not path.parent.resolve().is_relative_to(self.folder):
            raise DriverError(f"{name!r} leads out of the storage folder")
        return path

    def remove(self, name: str) -> None:
        """Remove a file (a symbolic link itself, not what it points to), and what was left half
        made of it; no error if there is none.
        """
        path = self.path_to_remove(name)
        for victim in (path, partial_of(path)):
            if victim.is_dir() and not victim.is_symlink():
                raise DriverError(f"{name!r} is a folder, not a volume")
            victim.unlink(missing_ok=True)
        # An empty folder goes with its last file; no error if others are still in it.
        folder = path.parent
        with contextlib.suppress(OSError):
            while folder != self.folder:
                folder.rmdir()
                folder = folder.parent
        if folder.is_dir():
            sync_folder(folder)

    def free_bytes(self) -> int:
        """Return the room that is left."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def shared_id(self) -> str:
        """Return what names this folder where hosts share it: the id in its file `storage-id`, and
        its path, which must be the same on each; "" where it has no such file.
        """
        try:
            with (self.folder / STORAGE_ID_NAME).open("rb") as file:
                text = file.read(STORAGE_ID_BYTES_MAX).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""
        return f"{text}:{self.folder}" if text else ""

    def takes_direct_io(self) -> bool:
        """Whether files here can be opened past the page cache (tmpfs may refuse)."""
        probe = self.folder / f".probe-{os.getpid()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_DIRECT
        try:
            os.close(os.open(probe, flags, 0o600))
        except OSError:
            return False
        finally:
            probe.unlink(missing_ok=True)
        return True


def partial_of(path: Path) -> Path:
    """Return where a file is made before it gets its name."""
    return path.with_name(f".{path.name}.partial")


def put_in_place(partial: Path, target: Path) -> None:
    """Give a finished file its name, durably; raises DriverError if the name is taken.

    A link instead of a rename, since a rename would overwrite.
    """
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(partial, target)
    except FileExistsError:
        raise DriverError(f"{target.name} exists already and is not overwritten") from None
    partial.unlink()
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable; a file system that cannot is left as it is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
