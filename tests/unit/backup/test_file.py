"""A backup file is whole and unaltered, or it is refused."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from chronovisor.backup_file import BackupReader, BackupWriter
from chronovisor.backup_format import (
    BackupError,
    BrokenBackupError,
    Scope,
    SecretsSealedError,
    wanted,
)
from chronovisor.backup_seal import Sealer
from chronovisor.backup_verify import Verified, sealer_of, verify
from tests.unit.backup.samples import manifest, write_backup

PASSPHRASE = b"correct horse battery staple"


def verified(path: Path, passphrase: bytes | None = None) -> Verified:
    with BackupReader(path) as reader:
        sealer = sealer_of(reader, passphrase)
        return verify(reader, sealer=sealer, progress=lambda _part, _done: None)


def test_a_whole_backup_is_verified(tmp_path: Path) -> None:
    path = write_backup(tmp_path / "backup")

    found = verified(path)

    assert (found.parts, found.events) == (3, 2)
    assert found.size_bytes == path.stat().st_size


def test_a_backup_is_for_its_owner_alone_and_any_zip_tool_lists_it(tmp_path: Path) -> None:
    path = write_backup(tmp_path / "backup")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[-1] == "manifest.json"


def test_a_byte_altered_anywhere_is_noticed(tmp_path: Path) -> None:
    whole = write_backup(tmp_path / "backup").read_bytes()
    altered = tmp_path / "altered"
    missed = []
    for place in range(0, len(whole), 5):
        content = bytearray(whole)
        content[place] ^= 0x01
        altered.write_bytes(content)
        try:
            verified(altered)
        except BackupError:
            continue
        missed.append(place)

    assert missed == []


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_backup(tmp_path / "backup").read_bytes()
    cut = tmp_path / "cut"
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(BrokenBackupError):
            verified(cut)


def test_a_file_with_something_behind_it_is_refused(tmp_path: Path) -> None:
    path = write_backup(tmp_path / "backup")
    path.write_bytes(path.read_bytes() + b"more")

    with pytest.raises(BrokenBackupError):
        verified(path)


def test_something_else_is_no_backup(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_text("Dear Sir or Madam")

    with pytest.raises(BrokenBackupError, match="no whole backup"):
        BackupReader(path)


def test_a_backup_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    path.write_text("precious")

    with pytest.raises(BackupError, match="exists already"):
        write_backup(path)

    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    with BackupWriter(path) as writer:
        path.write_text("precious")
        with pytest.raises(BackupError, match="exists already"):
            writer.finish(manifest((), None, None), None)

    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def stopped_half_way() -> None:
        with (
            BackupWriter(tmp_path / "backup") as writer,
            writer.part("log/log.copy", Scope.LOG) as sink,
        ):
            sink.write(b"some")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stopped_half_way()

    assert list(tmp_path.iterdir()) == []


def test_a_passphrase_signs_what_is_in_the_file(tmp_path: Path) -> None:
    path = write_backup(tmp_path / "backup", sealer=Sealer.new(PASSPHRASE))

    assert verified(path, PASSPHRASE).parts == 3
    assert verified(path).parts == 3  # the checksums need none
    with pytest.raises(SecretsSealedError):
        verified(path, b"another passphrase")


def test_a_passphrase_for_a_backup_without_one_is_refused(tmp_path: Path) -> None:
    path = write_backup(tmp_path / "backup")

    with pytest.raises(SecretsSealedError, match="without a passphrase"):
        verified(path, PASSPHRASE)


def test_secrets_open_with_their_passphrase_and_name_alone() -> None:
    sealer = Sealer.new(PASSPHRASE)
    sealed = sealer.seal("secrets", b"token")

    assert b"token" not in sealed
    assert Sealer(PASSPHRASE, sealer.sealing).open("secrets", sealed) == b"token"
    with pytest.raises(SecretsSealedError):
        Sealer(b"another passphrase", sealer.sealing).open("secrets", sealed)
    with pytest.raises(SecretsSealedError):
        sealer.open("other", sealed)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ((), (Scope.LOG, Scope.FILES, Scope.HISTORY)),
        ((Scope.HISTORY, Scope.ALL), (Scope.LOG, Scope.FILES, Scope.HISTORY)),
        ((Scope.HISTORY, Scope.LOG, Scope.LOG), (Scope.LOG, Scope.HISTORY)),
    ],
)
def test_scopes(given: tuple[Scope, ...], meant: tuple[Scope, ...]) -> None:
    assert wanted(given) == meant
