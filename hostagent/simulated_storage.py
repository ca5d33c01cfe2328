"""The files of simulated hosts that share a storage folder: one small file stands for each volume.

A folder is shared where it holds a file `storage-id`, as with real hosts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

import msgspec

from events.types.run_spec import Disk
from hostagent.driver import DriverError, Progress
from hostagent.files import make_private_folder, read_bounded, write_atomically
from hostagent.simulated_state import Volume, inside

STORAGE_ID_NAME = "storage-id"
COPY_STEPS = 10
_SUFFIX = ".volume"


def make_shared_storage(folder: Path, name: str) -> Path:
    """Make a storage folder that simulated hosts share, under this name; return it."""
    make_private_folder(folder)
    if not (folder / STORAGE_ID_NAME).exists():
        write_atomically(folder / STORAGE_ID_NAME, f"{name}\n".encode(), durable=False)
    return folder


def shared_id(folder: Path) -> str:
    """Return what names a shared folder, as capabilities say it."""
    return f"{read_bounded(folder / STORAGE_ID_NAME).decode().strip()}:{folder}"


class SharedVolumes(MutableMapping[str, Volume]):
    """The volumes in a shared folder, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> Volume:
        """Return a volume; raises KeyError."""
        try:
            return msgspec.json.decode(read_bounded(self._path(name)), type=Volume)
        except FileNotFoundError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, volume: Volume) -> None:
        """Make or replace a volume."""
        path = self._path(name)
        make_private_folder(path.parent)
        write_atomically(path, msgspec.json.encode(volume), durable=False)

    def __delitem__(self, name: str) -> None:
        """Remove a volume; raises KeyError."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise KeyError(name) from None

    def __contains__(self, name: object) -> bool:
        """Tell whether there is such a volume."""
        return isinstance(name, str) and self._path(name).exists()

    def __iter__(self) -> Iterator[str]:
        """Yield all names."""
        for path in sorted(self._folder.rglob(f"*{_SUFFIX}")):
            yield str(path.relative_to(self._folder)).removesuffix(_SUFFIX)

    def __len__(self) -> int:
        """Return the number of volumes."""
        return sum(1 for _ in self)

    def _path(self, name: str) -> Path:
        return self._folder / f"{inside(name)}{_SUFFIX}"


def volumes_of(own: dict[str, Volume], storage: Path | None) -> MutableMapping[str, Volume]:
    """Return a host's volumes: its own, or those in a shared folder, which its own move to."""
    if storage is None:
        return own
    shared = SharedVolumes(storage)
    for name, volume in own.items():
        shared.setdefault(name, volume)
    own.clear()
    return shared


def new_volume(disk: Disk, volumes: Mapping[str, Volume]) -> str:
    """Return the name of the volume to make for a disk; raises DriverError if it is there."""
    name = inside(disk.volume)
    if disk.image is not None:
        inside(disk.image)
    if name in volumes:
        raise DriverError(f"volume {disk.volume!r} exists already and is not overwritten")
    return name


async def pass_copying(copy_s: float, progress: Progress) -> None:
    """Let time pass as the copying of an image would."""
    for step in range(COPY_STEPS if copy_s else 0):
        progress(100 * step // COPY_STEPS)
        await asyncio.sleep(copy_s / COPY_STEPS)
