"""The files of an installation come back as they were, and nothing else does."""

from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path

import msgspec
import pytest

from access.files import PUBLIC_MODE, write_atomically
from chronovisor.backup_files import put, take, untar
from chronovisor.backup_format import BackupError, BrokenBackupError
from chronovisor.backup_restore import restore_backup
from chronovisor.folder import Folder
from chronovisor.settings import Notifier, Settings, Smtp
from tests.unit.backup.samples import write_backup


def installation(root: Path) -> Folder:
    root.mkdir()
    for name, mode in (
        ("admin.token", 0o600),
        ("engine.secret", 0o600),
        ("ca/ca.key", 0o600),
        ("ca/trust.crt", PUBLIC_MODE),
        ("certificates/engine.crt", PUBLIC_MODE),
        ("mail.password", 0o600),
        ("warehouse/warehouse.duckdb", 0o600),
    ):
        (root / name).parent.mkdir(exist_ok=True)
        write_atomically(root / name, f"content of {name}".encode(), mode=mode)
    (root / "chronovisor.toml").write_text("time_scale = 0.5\n")
    return Folder(root)


def test_files_come_back_with_their_modes(tmp_path: Path) -> None:
    folder = installation(tmp_path / "old")
    outside = tmp_path / "outside.crt"
    smtp = Smtp(password_file=folder.root / "mail.password", ca_file=outside)
    settings = msgspec.structs.replace(Settings(), notifier=Notifier(smtp=smtp))

    taken = take(folder, settings)
    count = put(tmp_path / "new", taken.settings, taken.secrets)

    new = tmp_path / "new"
    assert count == 7
    assert (new / "chronovisor.toml").read_text() == "time_scale = 0.5\n"
    assert (new / "ca/ca.key").read_text() == "content of ca/ca.key"
    assert (new / "mail.password").exists()
    assert not (new / "warehouse").exists()
    assert stat.S_IMODE((new / "ca/ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((new / "ca/trust.crt").stat().st_mode) == PUBLIC_MODE
    assert stat.S_IMODE(new.stat().st_mode) == 0o700
    assert taken.left_out == (
        f"{outside} (setting notifier.smtp.ca_file) lies outside of the installation's folder",
    )


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "ca/../../outside"])
def test_a_file_that_leads_out_is_refused(name: str) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))

    with pytest.raises(BrokenBackupError, match="no file of an installation"):
        list(untar(content.getvalue()))


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(tmp_path / "link", arcname="admin.token")

    with pytest.raises(BrokenBackupError):
        list(untar(content.getvalue()))


def test_a_restore_replaces_nothing(tmp_path: Path) -> None:
    folder = installation(tmp_path / "there")
    (folder.root / "postgres").mkdir()
    path = write_backup(tmp_path / "backup")

    with pytest.raises(BackupError, match="never replaces what is there"):
        restore_backup(path, folder.root)

    assert sorted(tmp_path.iterdir()) == [path, folder.root]
