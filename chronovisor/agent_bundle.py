"""The agent as one file: what a host needs to run it, out of what is installed here.

It holds the agent, the libraries that it needs in the versions of this installation, and the
scripts that start it: nothing is fetched from anywhere else. The same installation always makes the
same bytes, so that several engines serve one bundle, known by its SHA-256. Compiled libraries are
for this machine's architecture and this minor version of Python, which hosts need, too.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import importlib.metadata
import io
import platform
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import events
import hostagent
from access.files import make_private_folder, write_atomically
from commands.remote.source import AgentFile

LIBRARIES = ("cryptography", "httpx", "lxml", "msgspec", "prometheus-client", "structlog")
"""What the agent imports; what these need comes along."""
LIBRARIES_IF_HERE = ("libvirt-python",)
"""Hosts have it from their distribution, as python3-libvirt, where this machine has none."""
EVENTS_PARTS = ("types", "wire")
LAUNCH = "launch"
LIB = "lib"
SCRIPT_MODE, FILE_MODE = 0o755, 0o644
BUNDLE_BYTES_MAX = 256 * 1024 * 1024
PYTHON_SUFFIXES = frozenset({".py", ".so", ".pem", ".typed"})
COMPRESSION = 6
_KEPT_OF_METADATA = re.compile(r"METADATA|.*(LICEN[CS]E|COPYING|NOTICE|AUTHORS).*", re.IGNORECASE)
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9._-]+)([^;]*)(?:;(.*))?$")


class BundleKeeper:
    """Makes the bundle once, when it is first asked for, and keeps it in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: AgentFile | None = None
        self._making = asyncio.Lock()

    async def bundle(self) -> AgentFile:
        """Return the bundle; raises OSError."""
        async with self._making:
            if self._made is None or not self._made.path.exists():
                self._made = await asyncio.to_thread(build, self._folder)
            return self._made


def build(folder: Path) -> AgentFile:
    """Make the bundle, and put it into `folder`; raises OSError. Takes seconds: run in a thread."""
    content = pack(dict(_files()))
    sha256 = hashlib.sha256(content).hexdigest()
    make_private_folder(folder)
    path = folder / f"agent-{sha256[:16]}.tar.gz"
    if not path.exists():
        write_atomically(path, content)
        for old in folder.glob("agent-*.tar.gz"):
            if old != path:
                old.unlink(missing_ok=True)
    return AgentFile(
        path=path,
        sha256=sha256,
        architecture=platform.machine(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
    )


def pack(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Return a compressed tar of files (name to mode and content): the same files, the same bytes.

    No time, user or place of this machine gets into it.
    """
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            mode, content = files[name]
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    packed = io.BytesIO()
    with gzip.GzipFile(
        filename="", mode="wb", compresslevel=COMPRESSION, fileobj=packed, mtime=0
    ) as target:
        target.write(plain.getbuffer())
    if packed.tell() > BUNDLE_BYTES_MAX:
        raise OSError("the agent's bundle is larger than any honest one")
    return packed.getvalue()


def _files() -> Iterator[tuple[str, tuple[int, bytes]]]:
    agent, language = _folder_of(hostagent.__path__), _folder_of(events.__path__)
    for path in sorted((agent / LAUNCH).iterdir()):
        yield path.name, (SCRIPT_MODE if path.suffix == ".sh" else FILE_MODE, path.read_bytes())
    for path in (
        *sorted(agent.glob("*.py")),
        *sorted(language.glob("*.py")),
        *(path for part in EVENTS_PARTS for path in sorted((language / part).glob("*.py"))),
    ):
        root = (agent if path.is_relative_to(agent) else language).parent
        yield f"{LIB}/{path.relative_to(root).as_posix()}", (FILE_MODE, path.read_bytes())
    for library in _libraries():
        yield from _files_of(library)


def _folder_of(places: Iterable[str]) -> Path:
    return Path(next(iter(places)))


def _libraries() -> list[str]:
    """Return the names of all distributions that the bundle needs, sorted."""
    found: set[str] = set()
    wanted = [*LIBRARIES, *(name for name in LIBRARIES_IF_HERE if _is_here(name))]
    while wanted:
        name = _normal(wanted.pop())
        if name in found or not _is_here(name):
            continue
        found.add(name)
        for requirement in importlib.metadata.requires(name) or ():
            match = _REQUIREMENT.match(requirement)
            # What only an extra needs is left out; of the rest, what is not here is not needed.
            if match is not None and "extra" not in (match[3] or ""):
                wanted.append(match[1])
    return sorted(found)


def _is_here(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _files_of(library: str) -> Iterator[tuple[str, tuple[int, bytes]]]:
    for file in importlib.metadata.files(library) or ():
        if _is_kept(PurePosixPath(file)):
            content = Path(str(file.locate())).read_bytes()
            yield f"{LIB}/{PurePosixPath(file)}", (FILE_MODE, content)


def _is_kept(file: PurePosixPath) -> bool:
    """Tell whether a library's file is needed to run it, or to say whose it is."""
    if ".." in file.parts or "__pycache__" in file.parts or "tests" in file.parts:
        return False
    if any(part.endswith(".dist-info") for part in file.parts[:1]):
        return _KEPT_OF_METADATA.fullmatch(file.name) is not None
    return ".so" in file.suffixes or file.suffix in PYTHON_SUFFIXES
