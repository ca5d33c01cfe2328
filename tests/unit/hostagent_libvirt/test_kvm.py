"""KVM counts only where something boots on it."""

from pathlib import Path

import pytest

from hostagent import libvirt_kvm
from hostagent.libvirt_kvm import EXIT_CODE, kvm_is_useful
from tests.conftest import require


def emulator(folder: Path, script: str) -> str:
    path = folder / "qemu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def device(folder: Path) -> Path:
    path = folder / "kvm"
    path.touch()
    return path


def test_an_agent_that_cannot_try_takes_libvirts_word(tmp_path: Path) -> None:
    assert kvm_is_useful(emulator(tmp_path, "exit 1"), tmp_path / "none")
    assert kvm_is_useful(str(tmp_path / "none"), device(tmp_path))


@pytest.mark.parametrize(
    ("script", "useful"),
    [
        (f"exit {EXIT_CODE}", True),
        ("exit 0", False),
        ("exit 1", False),
        ("exec sleep 30", False),
        ('case "$*" in *accel=kvm*) exit 33 ;; esac', True),
    ],
)
def test_the_sector_must_run(
    tmp_path: Path, script: str, useful: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt_kvm, "TIMEOUT_S", 0.5)
    assert kvm_is_useful(emulator(tmp_path, script), device(tmp_path)) is useful


def test_the_sector_is_one_that_qemu_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sector under translation: a machine without KVM shows that the probe can succeed."""
    require("qemu")
    script = 'exec qemu-system-x86_64 $(echo "$*" | sed s/accel=kvm/accel=tcg/)'
    monkeypatch.setattr(libvirt_kvm, "TIMEOUT_S", 30.0)
    assert kvm_is_useful(emulator(tmp_path, script), device(tmp_path))
