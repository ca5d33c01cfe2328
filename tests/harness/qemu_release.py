"""A QEMU of another release: the installed one, which calls its newest machine type otherwise."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.harness.libvirt_host import LibvirtHost

OLD, NEW = "pc-q35-7.2", "pc-q35-7.9"


@contextlib.contextmanager
def upgraded_qemu(host: LibvirtHost) -> Iterator[None]:
    """Have a host find the other QEMU where the installed one was, for as long as the block lasts.

    Only the host's own namespace sees it.
    """
    found = shutil.which("qemu-system-x86_64")
    assert found is not None
    program, name = Path(found).read_bytes(), f"{OLD}-machine".encode()
    assert program.count(name) == 1
    made = host.folder / "qemu-next"
    made.write_bytes(program.replace(name, f"{NEW}-machine".encode()))
    made.chmod(0o755)
    host.run(["mount", "--bind", made, found])
    try:
        yield
    finally:
        host.run(["umount", "--lazy", found])
