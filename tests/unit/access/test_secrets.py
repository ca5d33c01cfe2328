import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from access.files import FileTooLarge, create_once, read_bounded, write_atomically
from access.joining import BadJoinText, JoinToken, format_join_token, parse_join_token
from access.secrets import EngineSecret, UnusableKey, secret_digest, verify_enrolment

PART = st.text("abcXYZ019_-", min_size=43, max_size=43)


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "engine.key"

    first = EngineSecret.load_or_create(path)
    second = EngineSecret.load_or_create(path)

    assert first.body_mac(b"{}") == second.body_mac(b"{}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in repr(first)


@pytest.mark.parametrize("content", [b"", b"AAAA", b"!" * 44, b"\xff" * 32])
def test_a_spoilt_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "engine.key"
    path.write_bytes(content)

    with pytest.raises(UnusableKey):
        EngineSecret.load_or_create(path)


def test_bodies_are_told_apart_and_keys_too() -> None:
    secret, other = EngineSecret(b"k" * 32), EngineSecret(b"l" * 32)

    assert secret.body_mac(b"a") == secret.body_mac(b"a")
    assert secret.body_mac(b"a") != secret.body_mac(b"b")
    assert secret.body_mac(b"a") != other.body_mac(b"a")
    assert len(secret.body_mac(b"")) == 32


def test_an_enrolment_secret_is_derived_and_verified_by_its_digest() -> None:
    engine = EngineSecret(b"k" * 32)

    secret = engine.enrolment_secret("0192-abc")

    assert secret == EngineSecret(b"k" * 32).enrolment_secret("0192-abc")
    assert len(secret) == 43
    assert verify_enrolment(secret, engine.enrolment_digest("0192-abc"))
    assert verify_enrolment(secret, secret_digest(secret))
    assert not verify_enrolment(engine.enrolment_secret("other"), secret_digest(secret))
    assert not verify_enrolment(secret, "")
    assert not verify_enrolment(secret, "z" * 64)


def test_derivations_for_two_purposes_never_meet() -> None:
    engine = EngineSecret(b"k" * 32)

    assert engine.body_mac(b"id").hex() != engine.enrolment_digest("id")


@pytest.mark.parametrize("token_id", ["", "a.b", "x" * 65, "a b"])
def test_an_odd_token_id_is_refused(token_id: str) -> None:
    with pytest.raises(ValueError, match="token's id"):
        EngineSecret(b"k" * 32).enrolment_secret(token_id)


@given(token_id=st.text("abcXYZ019_-", min_size=1, max_size=64), secret=PART, print_=PART)
def test_a_join_text_survives_the_way(token_id: str, secret: str, print_: str) -> None:
    token = JoinToken(token_id=token_id, secret=secret, ca_fingerprint=print_)

    assert parse_join_token(f" {format_join_token(token)}\n") == token


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(BadJoinText) as refusal:
        parse_join_token(text)

    assert len(text) < 20 or text not in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "cvj2.id." + "a" * 43 + "." + "b" * 43,
        "cvj1.id." + "a" * 42 + "." + "b" * 43,
        "cvj1.id." + "a" * 43 + "." + "b" * 44,
        "cvj1.id." + "a" * 43,
        "cvj1..x." + "a" * 43 + "." + "b" * 43,
        "cvj1.id." + "a" * 43 + "." + "b" * 43 + " " * 300,
    ],
)
def test_a_near_miss_is_refused(text: str) -> None:
    with pytest.raises(BadJoinText):
        parse_join_token(text)


def test_a_join_token_hides_its_secret() -> None:
    token = JoinToken(token_id="id", secret="s" * 43, ca_fingerprint="f" * 43)

    assert "s" * 43 not in repr(token)


def test_files_are_replaced_whole_and_created_once(tmp_path: Path) -> None:
    path = tmp_path / "f"

    assert create_once(path, b"1")
    assert not create_once(path, b"2")
    assert path.read_bytes() == b"1"
    write_atomically(path, b"3", mode=0o644)

    assert path.read_bytes() == b"3"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
    with pytest.raises(FileTooLarge):
        read_bounded(path, bytes_max=0)
