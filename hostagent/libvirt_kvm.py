"""Whether KVM is of use on this machine, found by booting something on it.

That /dev/kvm is there says little: inside some virtual machines KVM works and is slower than
QEMU's own translation by far, so that guests seem to hang. A boot sector of five bytes tells: where
KVM is good, firmware and sector are through within a fraction of a second.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import structlog

EXIT_PORT = 0xF4
BOOT_SECTOR = bytes((0xB0, 0x10, 0xE6, EXIT_PORT, 0xF4))  # mov al, 0x10; out 0xf4, al; hlt
EXIT_CODE = 0x10 << 1 | 1  # what QEMU's debug exit device makes of the byte
SECTOR_BYTES = 512
DISK_BYTES = 1024 * 1024  # the firmware refuses a disk without a whole cylinder
TIMEOUT_S = 3.0

log = structlog.get_logger()


def kvm_is_useful(emulator: str, device: Path = Path("/dev/kvm")) -> bool:
    """Answer whether guests run on KVM, on a host whose libvirt offers it; blocks, for up to
    TIMEOUT_S.

    An agent that cannot try (in a container it has neither QEMU nor the device) takes libvirt's
    word.
    """
    if not (os.access(device, os.R_OK | os.W_OK) and os.access(emulator, os.X_OK)):
        log.info("kvm_not_tried", emulator=emulator)
        return True
    with tempfile.NamedTemporaryFile(suffix=".raw") as disk:
        disk.write(BOOT_SECTOR.ljust(SECTOR_BYTES - 2, b"\0") + b"\x55\xaa")
        disk.truncate(DISK_BYTES)
        disk.flush()
        command = [
            *(emulator, "-machine", "q35,accel=kvm", "-cpu", "qemu64", "-m", "32"),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-device", f"isa-debug-exit,iobase={EXIT_PORT},iosize=4"),
            *("-drive", f"file={disk.name},format=raw,if=ide"),
        ]
        try:
            answer = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("kvm_is_no_use", error=str(error))
            return False
    if answer.returncode != EXIT_CODE:
        log.warning("kvm_is_no_use", code=answer.returncode)
    return answer.returncode == EXIT_CODE
