"""Small repositories of empty packages, for the real apt and the real dnf.

The packages have the names that an installation asks for, and nothing in them but a folder: what
they stand for is on the tests' machine already.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.harness.processes import run_command

NEEDED = {
    "debian": (
        *("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-utils"),
        *("python3-libvirt", "ca-certificates", "iproute2"),
    ),
    "el": (
        *("libvirt-daemon-kvm", "libvirt-client", "qemu-kvm", "qemu-img", "python3-libvirt"),
        *("ca-certificates", "iproute"),
    ),
}
"""What the installation asks for, by family."""
NEEDS = {"debian": "libvirt-clients", "el": "libvirt-client"}
DRAWN_IN = "libvirt-daemon"
"""What one of those draws in."""
OTHERS = "tool-of-theirs"
"""What somebody else might install, and needs one of those."""
CONTENT = "/usr/share/stand-in-for"
INSTALLED = {
    "debian": "dpkg-query -W -f='${db:Status-Status} ${Package}\\n' | sed -n 's/^installed //p'",
    "el": "rpm -qa --qf '%{NAME}\\n'",
}
"""Shell commands that tell which packages are installed, by family."""


def make_repository(folder: Path, family: str) -> Path:
    """Make the repository of a family; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    first = NEEDED[family][0]
    packages = {name: DRAWN_IN if name == first else "" for name in NEEDED[family]}
    packages |= {DRAWN_IN: "", OTHERS: NEEDS[family]}
    if family == "debian":
        _make_debian(folder, packages)
    else:
        _make_el(folder, packages)
    return folder


def _make_debian(folder: Path, packages: dict[str, str]) -> None:
    index = []
    for name, needs in packages.items():
        root = folder / "build" / name
        (root / "DEBIAN").mkdir(parents=True)
        (root / f"{CONTENT}-{name}".lstrip("/")).mkdir(parents=True)
        depends = f"Depends: {needs}\n" if needs else ""
        control = (
            f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: tests <tests@invalid>\n"
            f"{depends}Description: stand-in\n"
        )
        (root / "DEBIAN/control").write_text(control)
        archive = folder / f"{name}.deb"
        run_command(["dpkg-deb", "--root-owner-group", "--build", str(root), str(archive)])
        content = archive.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        fields = f"Filename: ./{archive.name}\nSize: {len(content)}\nSHA256: {sha256}\n"
        index.append(control + fields)
    (folder / "Packages").write_text("\n".join(index))


def _make_el(folder: Path, packages: dict[str, str]) -> None:
    build = folder / "build"
    build.mkdir()
    for name, needs in packages.items():
        place = f"{CONTENT}-{name}"
        requires = f"Requires: {needs}\n" if needs else ""
        specification = build / f"{name}.spec"
        specification.write_text(
            f"Name: {name}\nVersion: 1\nRelease: 1\nSummary: stand-in\nLicense: none\n"
            f"BuildArch: noarch\n{requires}%description\nstand-in\n"
            f"%install\nmkdir -p %{{buildroot}}{place}\n%files\n%dir {place}\n"
        )
    defines = {"_topdir": build, "_rpmdir": folder, "_dbpath": build / "db"}
    words = [word for name, at in defines.items() for word in ("--define", f"{name} {at}")]
    specifications = sorted(str(path) for path in build.glob("*.spec"))
    run_command(["rpmbuild", "-bb", "--quiet", *words, *specifications])
    run_command(["createrepo_c", "--quiet", str(folder)])
