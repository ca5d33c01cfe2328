"""Volumes, made by qemu-img: beside their name first, and given it only when they are whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from events.types.run_spec import Disk
from hostagent.driver import DriverError, Progress
from hostagent.libvirt_storage import Storage, image_format, partial_of, put_in_place

PROGRESS = re.compile(rb"\(\s*(\d+)(?:\.\d+)?/100%\)")
OUTPUT_BYTES_MAX = 64 * 1024
INSPECT_MEMORY_BYTES_MAX = 1 << 30
INSPECT_CPU_S_MAX = 10
INSPECT_TIMEOUT_S = 30.0
STALL_TIMEOUT_S = 600.0
"""A copy that says nothing for so long is given up; it reports each percent."""
COPIES_MAX = 2
# A copy whose agent died must end too: nobody would give its file a name.
DIE_WITH_AGENT = ("setpriv", "--pdeathsig", "KILL")


class Images:
    """Makes the volumes of a storage folder; at most COPIES_MAX at a time."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._room = asyncio.Semaphore(COPIES_MAX)
        self._making: set[Path] = set()

    async def create(self, disk: Disk, progress: Progress) -> None:
        """Make a disk's volume, empty or a copy of its image grown to size."""
        target = self._storage.path(disk.volume)
        if target in self._making:
            raise DriverError(f"volume {disk.volume!r} is being made already")
        self._making.add(target)
        try:
            async with self._room:
                await self._create(disk, target, progress)
        finally:
            self._making.discard(target)

    async def _create(self, disk: Disk, target: Path, progress: Progress) -> None:
        partial = partial_of(target)
        try:
            await asyncio.to_thread(_clear_way, target, partial)
            if disk.image is None:
                size = str(disk.size_bytes)
                await _run(["qemu-img", "create", "-q", "-f", "qcow2", partial, size])
            else:
                await self._copy(disk.image, disk.size_bytes, partial, progress)
            await asyncio.to_thread(put_in_place, partial, target)
        except OSError as error:
            raise DriverError(f"volume {disk.volume!r} could not be made: {error}") from error
        finally:
            partial.unlink(missing_ok=True)
        progress(100)

    async def _copy(self, image: str, size_bytes: int, partial: Path, progress: Progress) -> None:
        source = self._storage.existing(image)
        kind = image_format(image, self._storage.header(source))
        virtual_size = await inspect(source, kind)
        if virtual_size > size_bytes:
            raise DriverError(
                f"image {image!r} has {virtual_size} bytes, more than the disk's {size_bytes}"
            )
        formats = ["-f", kind, "-O", "qcow2"]
        await _run(["qemu-img", "convert", "-p", *formats, source, partial], progress)
        if virtual_size < size_bytes:
            await _run(["qemu-img", "resize", "-q", "-f", "qcow2", partial, str(size_bytes)])


def _clear_way(target: Path, partial: Path) -> None:
    if target.exists() or target.is_symlink():
        raise DriverError(f"{target.name!r} exists already and is not overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Whoever may still write to an older attempt keeps that file, which has no name any more.
    partial.unlink(missing_ok=True)
    # Made here first, because qemu-img would let everybody read it.
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


async def inspect(image: Path, kind: str) -> int:
    """Return an image's virtual size in bytes; raises DriverError if it names any other file.

    The image may be hostile: qemu-img is told the format, and how much memory and time it may use.
    """
    limits = [f"--as={INSPECT_MEMORY_BYTES_MAX}", f"--cpu={INSPECT_CPU_S_MAX}"]
    command = ["qemu-img", "info", "--output=json", "-f", kind, str(image)]
    try:
        async with asyncio.timeout(INSPECT_TIMEOUT_S):
            answer = await _run(["prlimit", *limits, *command])
        facts = json.loads(answer)
        size = int(facts["virtual-size"])
    except (TimeoutError, ValueError, KeyError) as error:
        raise DriverError(f"image {image.name} could not be examined: {error!r}") from error
    details = facts.get("format-specific", {}).get("data", {})
    if "backing-filename" in facts or "data-file" in details:
        raise DriverError(f"image {image.name} refers to another file: refused")
    if facts.get("encrypted"):
        raise DriverError(f"image {image.name} is encrypted, which is not supported")
    return size


async def _run(command: Sequence[str | Path], progress: Progress | None = None) -> bytes:
    """Run a command to its end and return what it printed; raises DriverError if it failed."""
    process = await asyncio.create_subprocess_exec(
        *DIE_WITH_AGENT,
        *(str(word) for word in command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output = await _follow(process, progress)
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code != 0:
        said = PROGRESS.sub(b"", output).decode(errors="replace").strip()
        raise DriverError(f"{command[0]} failed: {said[-1000:] or f'it ended with {code}'}")
    return output


async def _follow(process: asyncio.subprocess.Process, progress: Progress | None) -> bytes:
    """Read what the process prints, telling of its progress; keeps the last of it."""
    output, said = b"", -1
    if process.stdout is None:
        return output
    while True:
        try:
            async with asyncio.timeout(STALL_TIMEOUT_S):
                chunk = await process.stdout.read(4096)
        except TimeoutError:
            raise DriverError(f"no progress for {STALL_TIMEOUT_S:.0f} s: given up") from None
        if not chunk:
            return output
        output = (output + chunk)[-OUTPUT_BYTES_MAX:]
        percents = PROGRESS.findall(output)
        if progress is not None and percents and int(percents[-1]) != said:
            said = int(percents[-1])
            progress(min(said, 99))
