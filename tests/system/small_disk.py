"""A folder on a small disk of its own, which can be filled up and freed again."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.libvirt_host import LibvirtHost
from tests.harness.processes import run_command
from tests.harness.workspace import Workspace

BALLAST = "ballast"
SMALLEST_BYTES = 1


class SmallDisk:
    """A tmpfs of `mib` MiB at `folder`; on a `machine`, only that machine sees it.

    It is full for whoever writes to it, root included: there is no reserve.
    """

    def __init__(
        self, workspace: Workspace, folder: Path, mib: int, machine: LibvirtHost | None = None
    ) -> None:
        self.folder = folder
        self._workspace = workspace
        self._mib = mib
        self._machine = machine

    def __enter__(self) -> Self:
        """Mount it, empty."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        mount: list[str | Path] = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={self._mib}m,mode=0700",
            "cvt",
            self.folder,
        ]
        if self._machine is None:
            self._workspace.note_mount(self.folder)
            run_command(mount)
        else:
            self._machine.run(mount)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unmount it; what a machine mounted goes with the machine."""
        if self._machine is None:
            run_command(["umount", "--lazy", self.folder], check=False)

    @property
    def place(self) -> Path:
        """The folder, as it is reached from outside of the machine."""
        if self._machine is None:
            return self.folder
        return Path(f"/proc/{self._machine.pid}/root{self.folder}")

    def fill(self) -> None:
        """Take all that is free, to the last byte."""
        ballast = os.open(self.place / BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            piece = 1024 * 1024
            while piece >= SMALLEST_BYTES:
                try:
                    os.write(ballast, bytes(piece))
                except OSError:
                    piece //= 2
        finally:
            os.close(ballast)

    def free(self) -> None:
        """Give back what `fill` took."""
        with contextlib.suppress(FileNotFoundError):
            (self.place / BALLAST).unlink()
