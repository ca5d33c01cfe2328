"""The files of simulated hosts that share a storage folder: one small file stands for each volume.

A folder is shared where it holds a file `storage-id`, as with real hosts.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import msgspec

from hostagent.files import make_private_folder, read_bounded, write_atomically
from hostagent.simulated_state import Volume, inside

STORAGE_ID_NAME = "storage-id"
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
