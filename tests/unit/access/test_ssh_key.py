"""The engine's SSH key: made once, private, and what OpenSSH says that it is."""

from __future__ import annotations

import stat
from pathlib import Path

import asyncssh
import pytest

from access.ssh_key import KEY_NAME, SshKey


def test_it_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = SshKey.load_or_create(tmp_path / "ssh")
    assert SshKey.load_or_create(tmp_path / "ssh").public == first.public
    assert stat.S_IMODE((tmp_path / "ssh" / KEY_NAME).stat().st_mode) == 0o600


def test_others_read_it_as_we_do(tmp_path: Path) -> None:
    key = SshKey.load_or_create(tmp_path)
    read = asyncssh.import_private_key(key.private)
    assert read.get_fingerprint("sha256") == key.fingerprint
    assert asyncssh.import_public_key(key.public).get_fingerprint("sha256") == key.fingerprint


def test_a_damaged_one_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / KEY_NAME).write_text("nothing")
    with pytest.raises(ValueError, match="not the engine's SSH key"):
        SshKey.load_or_create(tmp_path)
    assert (tmp_path / KEY_NAME).read_text() == "nothing"
