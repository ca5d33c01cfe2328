import stat
import threading
from pathlib import Path

import pytest

from access.principals import BOOTSTRAP_ADMIN, Principal, PrincipalKind, host_principal
from access.rights import allowed, is_right
from access.tokens import (
    TokenVerifier,
    UnusableToken,
    bearer_token,
    ensure_admin_token,
    read_token,
    token_digest,
)


def test_the_token_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "var" / "admin.token"

    made = ensure_admin_token(path)
    first = read_token(path)

    assert made
    assert ensure_admin_token(path) is False
    assert read_token(path) == first
    assert len(first) == 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["admin.token"]


def test_of_many_first_starts_exactly_one_makes_the_token(tmp_path: Path) -> None:
    path = tmp_path / "admin.token"
    made: list[bool] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait(5)
        made.append(ensure_admin_token(path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)

    assert sorted(made) == [False] * 7 + [True]


@pytest.mark.parametrize("text", ["", "short", "two tokens", "x" * 257, "a" * 30 + "\n" + "b" * 30])
def test_a_file_without_one_token_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "admin.token"
    path.write_text(text)

    with pytest.raises(UnusableToken, match=r"admin\.token"):
        TokenVerifier.from_admin_token_file(path)
    with pytest.raises(UnusableToken):
        ensure_admin_token(path)


def test_the_admin_is_known_by_the_token(tmp_path: Path) -> None:
    path = tmp_path / "admin.token"
    ensure_admin_token(path)
    token = read_token(path)
    verifier = TokenVerifier.from_admin_token_file(path)

    assert verifier.principal(f"Bearer {token}") == BOOTSTRAP_ADMIN
    assert verifier.principal(f"bearer  {token} ".encode()) == BOOTSTRAP_ADMIN
    assert verifier.principal(f"Bearer {token[:-1]}") is None
    assert verifier.principal(f"Bearer {token}A") is None
    assert token not in repr(vars(verifier))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic " + "a" * 43,
        "Bearer " + "a" * 43 + " " + "b" * 43,
        "Bearer " + "a" * 42 + "=",
        "Bearer " + "a" * 600,
        "Bearer " + "a" * 42 + "\u00e9",
        b"Bearer " + b"\xff" * 43,
        "Bearer\t" + "a" * 43,
        "Bearer " + "a" * 43 + "\n",
    ],
)
def test_a_malformed_header_holds_no_token(header: str | bytes | None) -> None:
    assert bearer_token(header) is None


def test_several_tokens_stand_for_several_principals() -> None:
    other = Principal(name="ann", kind=PrincipalKind.ADMIN)
    verifier = TokenVerifier(
        {token_digest("a" * 43): BOOTSTRAP_ADMIN, token_digest("b" * 43): other}
    )

    assert verifier.principal("Bearer " + "b" * 43) == other
    assert verifier.principal("Bearer " + "a" * 43) == BOOTSTRAP_ADMIN


def test_the_admin_may_everything_and_a_host_nothing() -> None:
    host = host_principal("h1")

    assert allowed(BOOTSTRAP_ADMIN, "CREATE_VM", None)
    assert allowed(BOOTSTRAP_ADMIN, "RUN_VM", "vm/1")
    assert not allowed(host, "RUN_VM", "vm/1")
    assert not allowed(host, "LOGIN", None)
    assert BOOTSTRAP_ADMIN.actor == "admin:bootstrap"
    assert host.actor == "host:h1"


def test_rights_are_the_action_groups() -> None:
    assert is_right("MANIPULATE_HOST")
    assert not is_right("manipulate_host")
    assert not is_right("VM_CREATE")
