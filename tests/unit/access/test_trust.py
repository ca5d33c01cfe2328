import datetime as dt
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from access import trust
from access.certificates import BrokenAuthority, CertificateAuthority, CertificateRefusal
from access.files import write_atomically
from access.host_keys import make_host_key_and_request
from access.trust import (
    BUNDLE_CERTIFICATES_MAX,
    add_to_trust_bundle,
    ensure_server_files,
    pick_by_fingerprint,
    read_trust_bundle,
)

NOW = dt.datetime(2026, 11, 21, 8, 30, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def test_two_authorities_overlap_in_one_bundle(tmp_path: Path) -> None:
    old = CertificateAuthority.create(tmp_path / "old", NOW)
    new = CertificateAuthority.create(tmp_path / "new", NOW)
    bundle = tmp_path / "old" / "trust.crt"

    add_to_trust_bundle(bundle, new.certificate)
    add_to_trust_bundle(bundle, new.certificate)

    assert read_trust_bundle(bundle) == [old.certificate, new.certificate]
    picked = pick_by_fingerprint(bundle.read_bytes(), new.fingerprint)
    assert x509.load_pem_x509_certificate(picked) == new.certificate


def test_a_bundle_is_bounded(tmp_path: Path) -> None:
    bundle = tmp_path / "trust.crt"
    for number in range(BUNDLE_CERTIFICATES_MAX):
        authority = CertificateAuthority.create(tmp_path / str(number), NOW)
        add_to_trust_bundle(bundle, authority.certificate)

    one_more = CertificateAuthority.create(tmp_path / "more", NOW)
    with pytest.raises(CertificateRefusal, match="already holds 16"):
        add_to_trust_bundle(bundle, one_more.certificate)


def test_an_empty_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trust.crt").write_bytes(b"")

    with pytest.raises(BrokenAuthority):
        read_trust_bundle(tmp_path / "trust.crt")


def test_an_engine_with_another_ca_is_not_picked(tmp_path: Path) -> None:
    mine = CertificateAuthority.create(tmp_path / "mine", NOW)
    CertificateAuthority.create(tmp_path / "impostor", NOW)

    with pytest.raises(CertificateRefusal, match="is this the engine"):
        pick_by_fingerprint((tmp_path / "impostor" / "trust.crt").read_bytes(), mine.fingerprint)
    with pytest.raises(CertificateRefusal, match="no certificates"):
        pick_by_fingerprint(b"<html>", mine.fingerprint)


def ensure(folder: Path, names: list[str], now: dt.datetime) -> bytes:
    files = ensure_server_files(folder / "ca", folder / "tls", "api", names, ["127.0.0.1"], now)
    return files.certificate.read_bytes()


def test_server_files_are_kept_until_they_no_longer_serve(tmp_path: Path) -> None:
    CertificateAuthority.create(tmp_path / "ca", NOW)

    first = ensure(tmp_path, ["engine"], NOW)

    assert ensure(tmp_path, ["engine"], NOW + 300 * DAY) == first
    assert stat.S_IMODE((tmp_path / "tls" / "api.key").stat().st_mode) == 0o600
    renamed = ensure(tmp_path, ["engine", "engine2"], NOW)
    assert renamed != first
    renewed = ensure(tmp_path, ["engine"], NOW + 340 * DAY)
    assert renewed != renamed


def test_server_files_of_which_one_is_stale_are_made_again(tmp_path: Path) -> None:
    authority = CertificateAuthority.create(tmp_path / "ca", NOW)
    first = ensure(tmp_path, ["engine"], NOW)
    (tmp_path / "tls" / "api.key").write_bytes(authority.issue_server(["x"], [], NOW).key)

    second = ensure(tmp_path, ["engine"], NOW)

    assert second != first
    key = serialization.load_pem_private_key((tmp_path / "tls" / "api.key").read_bytes(), None)
    assert key.public_key() == x509.load_pem_x509_certificate(second).public_key()


def test_engines_that_start_at_once_leave_a_pair_that_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CertificateAuthority.create(tmp_path / "ca", NOW)
    second_done = threading.Event()

    def write_slowly(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        write_atomically(path, data, mode=mode)
        if path.suffix == ".key" and threading.current_thread() is first:
            # The other gets all the time that it wants, unless it has to wait for us.
            second.start()
            second_done.wait(0.5)

    def start_second() -> None:
        ensure(tmp_path, ["second"], NOW)
        second_done.set()

    monkeypatch.setattr(trust, "write_atomically", write_slowly)
    first = threading.Thread(target=ensure, args=(tmp_path, ["first"], NOW))
    second = threading.Thread(target=start_second)
    first.start()
    first.join(10)
    second.join(10)

    certificate = x509.load_pem_x509_certificate((tmp_path / "tls/api.crt").read_bytes())
    pem = (tmp_path / "tls/api.key").read_bytes()
    key = serialization.load_pem_private_key(pem, password=None)
    assert certificate.public_key() == key.public_key()


def test_a_host_key_is_private_and_survives_a_second_joining(tmp_path: Path) -> None:
    first = make_host_key_and_request(tmp_path, "kvm01")
    second = make_host_key_and_request(tmp_path, "kvm01")

    assert stat.S_IMODE((tmp_path / "host.key").stat().st_mode) == 0o600
    keys = [x509.load_pem_x509_csr(pem).public_key() for pem in (first, second)]
    assert keys[0] == keys[1]
    assert b"PRIVATE" not in first


def test_a_spoilt_host_key_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "host.key").write_text("nothing")

    with pytest.raises(CertificateRefusal, match=r"host\.key"):
        make_host_key_and_request(tmp_path, "kvm01")
