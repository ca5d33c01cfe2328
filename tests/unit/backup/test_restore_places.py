"""What a restore puts into a folder that is used, it puts beside what is there."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from chronovisor import backup_restore
from chronovisor.backup import make_backup
from chronovisor.backup_format import BackupError, Scope
from chronovisor.backup_restore import restore_backup
from chronovisor.folder import Folder
from chronovisor.installation import Installation
from chronovisor.supervisor import LOCK_NAME, folder_lock
from notifier.store import FILE_NAME as NOTIFIER_NAME
from notifier.store import Store

SETTINGS = '[notifier.smtp]\npassword_file = "{root}/mail.password"\n'


def installation(root: Path) -> Folder:
    """Return an installation that has files of each kind, and a notifier's memory."""
    folder = Folder(root)
    for name in ("admin.token", "engine.secret", "ca/ca.key", "mail.password"):
        (root / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}")
    (root / "chronovisor.toml").write_text(SETTINGS.format(root=root))
    folder.notifier.mkdir()
    Store(folder.notifier).close()
    return folder


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != LOCK_NAME
    }


@pytest.fixture
def old(tmp_path: Path) -> Folder:
    return installation(tmp_path / "old")


def backed_up(old: Folder, *scopes: Scope) -> Path:
    path = old.root.parent / "backup"
    make_backup(Installation.open(old.root), path, scopes=scopes)
    return path


def test_files_come_into_a_used_folder_beside_what_is_there(old: Folder) -> None:
    path = backed_up(old, Scope.FILES)
    for name in ("admin.token", "engine.secret", "ca/ca.key", "chronovisor.toml", "mail.password"):
        (old.root / name).unlink()
    (old.root / "ca").rmdir()
    before = contents(old.root)

    restore_backup(path, old.root, scopes=(Scope.FILES,))

    after = contents(old.root)
    assert before.items() <= after.items()
    assert after["ca/ca.key"] == b"content of ca/ca.key"
    assert after["mail.password"] == b"content of mail.password"
    assert not list(old.root.glob(".restoring-*"))


def test_one_file_in_the_way_and_nothing_is_put(old: Folder) -> None:
    """It is one that only the settings name, so it is found when all is ready to be moved."""
    path = backed_up(old, Scope.FILES)
    for name in ("admin.token", "engine.secret", "ca/ca.key", "chronovisor.toml"):
        (old.root / name).unlink()
    (old.root / "ca").rmdir()
    (old.root / "mail.password").write_text("another")
    before = contents(old.root)

    with pytest.raises(BackupError, match=r"never replaces what is there: \S*mail.password"):
        restore_backup(path, old.root, scopes=(Scope.FILES,))

    assert contents(old.root) == before


def test_what_appears_meanwhile_is_not_replaced(
    old: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = backed_up(old, Scope.HISTORY)
    (old.notifier / NOTIFIER_NAME).unlink()
    filling = backup_restore._fill

    def slow(*arguments: object) -> object:
        found = filling(*arguments)  # type: ignore[arg-type]
        (old.notifier / NOTIFIER_NAME).write_text("somebody else's")
        return found

    monkeypatch.setattr(backup_restore, "_fill", slow)
    with pytest.raises(BackupError, match="never replaces"):
        restore_backup(path, old.root, scopes=(Scope.HISTORY,))
    assert (old.notifier / NOTIFIER_NAME).read_text() == "somebody else's"
    assert not list(old.root.glob(".restoring-*"))


def test_a_journal_that_was_left_behind_is_in_the_way(old: Folder) -> None:
    """SQLite would take it for the restored database's."""
    path = backed_up(old, Scope.HISTORY)
    (old.notifier / NOTIFIER_NAME).unlink()
    journal = old.notifier / f"{NOTIFIER_NAME}-wal"
    journal.write_text("of another database")

    with pytest.raises(BackupError, match=f"never replaces what is there: {journal}"):
        restore_backup(path, old.root, scopes=(Scope.HISTORY,))

    journal.unlink()
    restore_backup(path, old.root, scopes=(Scope.HISTORY,))
    with sqlite3.connect(old.notifier / NOTIFIER_NAME) as restored:
        assert restored.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    restored.close()


def test_a_folder_whose_installation_runs_is_left_alone(old: Folder) -> None:
    path = backed_up(old, Scope.HISTORY)
    (old.notifier / NOTIFIER_NAME).unlink()
    with folder_lock(old.root), pytest.raises(BackupError, match="stop it first"):
        restore_backup(path, old.root, scopes=(Scope.HISTORY,))
    assert not (old.notifier / NOTIFIER_NAME).exists()


def test_what_the_backup_does_not_hold_is_named(old: Folder) -> None:
    path = backed_up(old, Scope.FILES)
    with pytest.raises(BackupError, match="the backup holds no history"):
        restore_backup(path, old.root.parent / "new", scopes=(Scope.HISTORY,))
    assert not (old.root.parent / "new").exists()
