"""The tiny Linux guest that the tests boot: kernel, initramfs and disk, built on the machine.

Nothing is downloaded but two Debian packages (a kernel, QEMU's guest agent), through apt. The
result lies in the cache and is built again when its recipe changes: this file or anything in
guest_files/. Words of the kernel's command line: `vmname=NAME`, `ip4=ADDRESS/LENGTH`, `stamp` (see
stamps.py), `scribble=MIB` (so much memory is written to without end). 96 MiB of memory are enough.
"""

import hashlib
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.harness.processes import HarnessError, run_command
from tests.harness.stamps import empty_stamp_file
from tests.harness.workspace import cache_folder, exclusive

FILES = Path(__file__).parent / "guest_files"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
AGENT_PACKAGE = "qemu-guest-agent"
DISK_SIZE = "128M"
BUILD_TIMEOUT_S = 300
CONSOLE_WORDS = "console=tty0 console=ttyS0 quiet"
# What the guest's hardware needs, in this order; what these drivers depend on is found by itself.
DRIVERS = (
    *("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_scsi", "virtio_balloon"),
    *("virtio_rng", "sd_mod", "ahci", "sr_mod", "isofs", "ext4", "crc32c_generic", "button"),
    *("evdev", "psmouse", "pvpanic-mmio"),
)
FOLDERS = (
    *("bin", "sbin", "dev", "drivers", "etc/acpi/PWRF", "lib", "mnt", "proc", "run", "sys"),
    *("tmp", "usr/sbin", "var/log"),
)
# Where the small files go in the guest. The name of the last is what acpid calls for a power
# button.
PLACES = {
    "init": ("init",),
    "rc": ("etc/rc",),
    "inittab": ("etc/inittab",),
    "agent": ("etc/agent",),
    "halt": ("sbin/shutdown", "etc/acpi/PWRF/00000080"),
}
PROGRAMS = ("stamper", "scribbler")


@dataclass(frozen=True, kw_only=True)
class Guest:
    """What boots: give kernel and initrd to the domain, and a copy of the disk as its first virtio
    disk.
    """

    kernel: Path
    initrd: Path
    base_disk: Path

    def command_line(
        self, name: str, *, ip4: str | None = None, stamp: bool = False, scribble_mib: int = 0
    ) -> str:
        """The kernel's command line for a guest; `ip4` is ADDRESS/LENGTH for its eth0."""
        words = [CONSOLE_WORDS, f"vmname={name}"]
        if ip4:
            words.append(f"ip4={ip4}")
        if stamp:
            words.append("stamp")
        if scribble_mib:
            words.append(f"scribble={scribble_mib}")
        return " ".join(words)

    def copy_disk(self, target: Path) -> Path:
        """A disk of its own for one guest."""
        shutil.copyfile(self.base_disk, target)
        return target


def build_guest(folder: Path | None = None) -> Guest:
    """The guest from the cache; built first (half a minute) if it is not there or its recipe has
    changed.
    """
    home = folder or cache_folder() / "guest"
    home.mkdir(parents=True, exist_ok=True)
    recipe = _recipe()
    built = home / recipe
    guest = Guest(
        kernel=built / "vmlinuz", initrd=built / "initrd.img", base_disk=built / "base.qcow2"
    )
    with exclusive(home / "build.lock"):
        if not built.is_dir():
            with tempfile.TemporaryDirectory(dir=home, prefix="building-") as workplace:
                _build(Path(workplace), _packages(home / "packages"))
                (Path(workplace) / "result").rename(built)
    return guest


def _recipe() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(FILES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _packages(folder: Path) -> list[Path]:
    """The two packages, fetched once."""
    folder.mkdir(exist_ok=True)
    answer = run_command(["apt-cache", "depends", KERNEL_PACKAGE]).stdout
    found = re.search(r"Depends: (linux-image-\d\S+)", answer)
    if found is None:
        message = f"apt knows no {KERNEL_PACKAGE}: run `apt-get update`\n{answer}"
        raise HarnessError(message)
    for package in (found[1], AGENT_PACKAGE):
        if not list(folder.glob(f"{package}_*.deb")):
            download = ["env", f"--chdir={folder}", "apt-get", "download", "-q", package]
            run_command(download, timeout_s=BUILD_TIMEOUT_S)
    return [next(folder.glob(f"{package}_*.deb")) for package in (found[1], AGENT_PACKAGE)]


def _build(workplace: Path, packages: list[Path]) -> None:
    unpacked, root, result = (workplace / name for name in ("unpacked", "root", "result"))
    for package in packages:
        run_command(["dpkg", "-x", package, unpacked], timeout_s=BUILD_TIMEOUT_S)
    result.mkdir()
    shutil.copy(next(unpacked.glob("boot/vmlinuz-*")), result / "vmlinuz")
    _fill_root(root, unpacked)
    archive = f"cd '{root}' && find . | cpio --quiet -o -H newc | gzip -6 > '{result}/initrd.img'"
    run_command(["sh", "-ec", archive], timeout_s=BUILD_TIMEOUT_S)
    _make_disk(workplace, result / "base.qcow2")


def _fill_root(root: Path, unpacked: Path) -> None:
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise HarnessError("busybox is missing: install Debian's `busybox-static`")
    shutil.copy(busybox, root / "bin/busybox")
    for applet in run_command([busybox, "--list"]).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    for number, driver in enumerate(_drivers(unpacked)):
        shutil.copy(driver, root / "drivers" / f"{number:03}-{driver.name}")
    for name, places in PLACES.items():
        for place in places:
            shutil.copy(FILES / name, root / place)
            (root / place).chmod(0o755)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/mtab").symlink_to("/proc/mounts")
    for name in PROGRAMS:
        compiler = ["gcc", "-static", "-Os", "-Wall", "-Werror"]
        run_command([*compiler, "-o", str(root / "bin" / name), str(FILES / f"{name}.c")])
    _copy_program(unpacked / "usr/sbin/qemu-ga", root)


def _copy_program(program: Path, root: Path) -> None:
    """A program with the shared libraries that this machine would load for it."""
    shutil.copy(program, root / "usr/sbin" / program.name)
    answer = run_command(["ldd", program]).stdout
    if "not found" in answer:
        message = f"libraries of {program.name} are missing here:\n{answer}"
        raise HarnessError(message)
    for library in re.findall(r"(/\S+) \(0x", answer):
        target = root / library.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def _drivers(unpacked: Path) -> list[Path]:
    """The drivers' files, each after those that it depends on; what the kernel has built in has no
    file.
    """
    files = {path.stem.replace("-", "_"): path for path in unpacked.glob("lib/modules/**/*.ko")}
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path in ordered:
            return
        needs = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for needed in needs[1].decode().split(",") if needs else []:
            add(needed)
        ordered.append(path)

    for name in DRIVERS:
        add(name)
    if not ordered:
        raise HarnessError("the kernel package has no drivers where they are expected")
    return ordered


def _make_disk(workplace: Path, target: Path) -> None:
    content = workplace / "content"
    content.mkdir()
    empty_stamp_file(content / "stamps")
    raw = workplace / "disk.raw"
    options = ["-q", "-F", "-L", "guest", "-d", str(content)]
    run_command(["mkfs.ext4", *options, str(raw), DISK_SIZE])
    run_command(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, target])
