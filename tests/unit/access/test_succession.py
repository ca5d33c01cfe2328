"""Replacing a CA: each step can be killed anywhere and done again, and never leaves no CA."""

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509

from access import succession
from access.certificates import CertificateAuthority
from access.files import write_atomically
from access.host_keys import make_host_key_and_request
from access.succession import Authorities, NoSuccession
from access.trust import ensure_server_files, read_trust_bundle

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def old(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", NOW)


def trusted(tmp_path: Path) -> list[x509.Certificate]:
    return read_trust_bundle(tmp_path / "ca" / "trust.crt")


def killed(*_arguments: object, **_others: object) -> None:
    raise KeyboardInterrupt


def test_both_are_trusted_and_hosts_get_certificates_of_the_new_one(
    tmp_path: Path, old: CertificateAuthority
) -> None:
    authorities = Authorities(tmp_path / "ca")
    assert not authorities.overlap

    new = succession.begin(tmp_path / "ca", NOW)

    assert authorities.refresh()
    assert authorities.overlap
    assert not authorities.refresh()
    assert trusted(tmp_path) == [old.certificate, new.certificate]
    request = make_host_key_and_request(tmp_path / "host", "host")
    pem = authorities.signer.sign_host_request(request, "host-1", NOW)
    assert new.issued(x509.load_pem_x509_certificate(pem))
    files = ensure_server_files(tmp_path / "ca", tmp_path / "tls", "api", ["x"], [], NOW)
    assert old.issued(x509.load_pem_x509_certificate(files.certificate.read_bytes()))


def test_the_new_one_takes_the_place_and_the_old_key_is_gone(
    tmp_path: Path, old: CertificateAuthority
) -> None:
    new = succession.begin(tmp_path / "ca", NOW)

    succession.finish(tmp_path / "ca")

    assert sorted(path.name for path in (tmp_path / "ca").iterdir()) == [
        "ca.crt",
        "ca.key",
        "trust.crt",
    ]
    assert CertificateAuthority.load(tmp_path / "ca").fingerprint == new.fingerprint
    assert trusted(tmp_path) == [new.certificate]
    assert old.fingerprint != new.fingerprint
    files = ensure_server_files(tmp_path / "ca", tmp_path / "tls", "api", ["x"], [], NOW)
    assert new.issued(x509.load_pem_x509_certificate(files.certificate.read_bytes()))
    with pytest.raises(NoSuccession):
        succession.finish(tmp_path / "ca")


def test_what_was_begun_goes_on(tmp_path: Path, old: CertificateAuthority) -> None:
    first = succession.begin(tmp_path / "ca", NOW)
    assert succession.begin(tmp_path / "ca", NOW).fingerprint == first.fingerprint
    assert trusted(tmp_path) == [old.certificate, first.certificate]


def test_a_successor_that_nobody_trusts_yet_signs_nothing(
    tmp_path: Path, old: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """given a begin that was killed before the new CA was trusted, then the old one signs on"""
    with monkeypatch.context() as patched:
        patched.setattr(succession, "add_to_trust_bundle", killed)
        with pytest.raises(KeyboardInterrupt):
            succession.begin(tmp_path / "ca", NOW)

    assert Authorities(tmp_path / "ca").signer.fingerprint == old.fingerprint
    new = succession.begin(tmp_path / "ca", NOW)
    assert Authorities(tmp_path / "ca").signer.fingerprint == new.fingerprint


@pytest.mark.parametrize("step", ["write 2", "replace_trust_bundle", "rmtree"])
@pytest.mark.parametrize("then", ["finish", "begin"])
def test_a_finish_that_was_killed_leaves_the_new_ca_whole(
    tmp_path: Path,
    old: CertificateAuthority,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    then: str,
) -> None:
    folder = tmp_path / "ca"
    new = succession.begin(folder, NOW)
    written = 0

    def write_once(path: Path, data: bytes, **others: int) -> None:
        nonlocal written
        written += 1
        if written > 1:
            raise KeyboardInterrupt
        write_atomically(path, data, **others)

    with monkeypatch.context() as patched:
        match step:
            case "rmtree":
                patched.setattr("shutil.rmtree", killed)
            case "write 2":
                patched.setattr(succession, "write_atomically", write_once)
            case _:
                patched.setattr(succession, step, killed)
        with pytest.raises(KeyboardInterrupt):
            succession.finish(folder)

    authorities = Authorities(folder)
    assert authorities.current.fingerprint == new.fingerprint
    assert not authorities.overlap
    if then == "begin":
        newest = succession.begin(folder, NOW)
        assert newest.fingerprint not in {old.fingerprint, new.fingerprint}
        assert trusted(tmp_path) == [new.certificate, newest.certificate]
    elif step != "rmtree":
        succession.finish(folder)
        assert trusted(tmp_path) == [new.certificate]
    assert CertificateAuthority.load(folder).fingerprint == new.fingerprint
