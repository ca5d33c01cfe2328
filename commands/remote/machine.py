"""A machine, reached over SSH; the only file that knows asyncssh.

Nothing is said to a machine before its key was compared, and a password least of all. Commands run
as root, by sudo where the login is not root's; sudo's password goes to its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncssh
import msgspec

CONNECT_TIMEOUT_S = 20.0
LOGIN_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 30.0
KEEPALIVE_S, KEEPALIVES_MAX = 15, 4
OUTPUT_CHARACTERS_MAX = 16_384
GRACE_S = 60.0
KILL_AFTER_S = 30
MARK = "CHRONOVISOR-BEGIN"
"""After this line a script begins: before it stands a password, which must never be run."""
_ALGORITHMS = {
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
_PREFERRED = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")


class SshError(Exception):
    """Something did not work; the text is for people. `lost`: the connection, so try again."""

    def __init__(self, text: str, *, lost: bool = False) -> None:
        super().__init__(text)
        self.lost = lost


class LoginRefusedError(SshError):
    """The machine does not let us in, or not become root."""


class KeyRefusedError(SshError):
    """The machine shows another key than it should."""

    def __init__(self, expected: str, shown: str) -> None:
        super().__init__(
            f"The machine shows the SSH key {shown} instead of {expected}. If that is right, give"
            " the new key's fingerprint."
        )
        self.expected = expected
        self.shown = shown


class ShownKey(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's SSH key: `SHA256:...`, and its type."""

    fingerprint: str
    key_type: str


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Where and as whom to log in: with `password` where there is one, else with `key`."""

    address: str
    port: int
    user: str
    key: bytes
    password: str | None = None


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended, with the end of what it said."""

    status: int
    out: str
    err: str


async def shown_key(address: str, port: int, key_type: str = "") -> ShownKey:
    """Return the key that a machine shows, of a type if it matters; raises SshError."""
    algorithms = _ALGORITHMS.get(key_type, (key_type,)) if key_type else _PREFERRED
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            key = await asyncssh.get_server_host_key(
                address, port, server_host_key_algs=list(algorithms), config=None
            )
    except (OSError, TimeoutError, asyncssh.Error) as error:
        raise _unreachable(address, port, error) from error
    if key is None:
        raise SshError(f"{address} shows no SSH key.")
    return ShownKey(fingerprint=key.get_fingerprint("sha256"), key_type=key.get_algorithm())


async def key_with(address: str, port: int, fingerprint: str) -> ShownKey:
    """Return the machine's key that has a fingerprint, whatever its type; raises SshError."""
    found = await shown_key(address, port)
    for key_type in ("", "ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"):
        if key_type:
            # A server without a key of a type hangs up.
            with contextlib.suppress(SshError):
                found = await shown_key(address, port, key_type)
        if found.fingerprint == fingerprint:
            return found
    first = await shown_key(address, port)
    raise KeyRefusedError(fingerprint, first.fingerprint)


class Machine:
    """A machine that we are logged in to. Use as `async with machine(login, key)`."""

    def __init__(self, connection: asyncssh.SSHClientConnection, login: Login) -> None:
        self._connection = connection
        self._login = login
        self._prefix = ""
        self._asks_password = False
        self.free_sudo = True
        """Whether everything may be done as root without a password."""

    async def become_root(self) -> None:
        """Find out how commands are run as root; raises LoginRefusedError."""
        if self._login.user == "root":
            return
        self._prefix = "sudo -n -- "
        if (await self._command("sudo -n -- true", "")).status == 0:
            return
        self.free_sudo = False
        self._prefix, self._asks_password = "sudo -k -S -p '' -- ", True
        if self._login.password is not None:
            tried = await self._command(f"{self._prefix}true", f"{self._login.password}\n")
            if tried.status == 0:
                return
        raise LoginRefusedError(
            f"User {self._login.user} may not use sudo on the machine with what was given."
        )

    async def run(self, script: str, limit_s: float) -> Output:
        """Run a script as root; raises SshError where the connection is lost, or time is up."""
        runs = f"timeout --kill-after={KILL_AFTER_S} {limit_s:.0f} sh -s"
        if not self._asks_password:
            return await self._command(f"{self._prefix}{runs}", script, limit_s + GRACE_S)
        skips = f'while IFS= read -r line; do [ "$line" = {MARK} ] && break; done; exec {runs}'
        text = f"{self._login.password}\n{MARK}\n{script}"
        return await self._command(f"{self._prefix}sh -c '{skips}'", text, limit_s + GRACE_S)

    async def restart(self, program: str) -> Output:
        """Run the one program that may be run as root later, too, when no password is at hand."""
        prefix = "" if self._login.user == "root" else "sudo -n -- "
        return await self._command(f"{prefix}{program}", "")

    async def _command(
        self, command: str, text: str, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> Output:
        try:
            async with asyncio.timeout(timeout_s):
                async with self._connection.create_process(
                    command, encoding="utf-8", errors="replace"
                ) as process:
                    return await _talk(process, text)
        except TimeoutError:
            raise SshError(f"It took longer than {timeout_s:.0f} s.") from None
        except (OSError, asyncssh.Error) as error:
            raise SshError(f"The connection was lost: {_words(error)}", lost=True) from error


@contextlib.asynccontextmanager
async def machine(login: Login, key: ShownKey) -> AsyncIterator[Machine]:
    """Log in to the machine that has a key; raises SshError."""

    class Client(asyncssh.SSHClient):
        shown = ""

        def validate_host_public_key(
            self, host: str, addr: str, port: int, key: asyncssh.SSHKey
        ) -> bool:
            Client.shown = key.get_fingerprint("sha256")
            return Client.shown == expected

    expected = key.fingerprint
    try:
        connection = await asyncssh.connect(
            login.address,
            login.port,
            client_factory=Client,
            server_host_key_algs=list(_ALGORITHMS.get(key.key_type, (key.key_type,))),
            known_hosts=b"",
            connect_timeout=CONNECT_TIMEOUT_S,
            login_timeout=LOGIN_TIMEOUT_S,
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVES_MAX,
            **_credentials(login),
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise KeyRefusedError(expected, Client.shown) from error
    except asyncssh.PermissionDenied as error:
        how = "the engine's key" if login.password is None else "the password"
        raise LoginRefusedError(
            f"The machine does not let user {login.user} in with {how}."
        ) from error
    except (OSError, TimeoutError, asyncssh.Error) as error:
        # It may also have hung up because it has no key of that type any more.
        shown = await shown_key(login.address, login.port)
        if shown.key_type != key.key_type:
            raise KeyRefusedError(expected, shown.fingerprint) from error
        raise _unreachable(login.address, login.port, error) from error
    try:
        yield Machine(connection, login)
    finally:
        connection.abort()


def _credentials(login: Login) -> dict[str, Any]:
    """Return how to show who we are: nothing of what this process or its user may have besides."""
    options: dict[str, Any] = {
        "username": login.user,
        "config": None,
        "agent_path": None,
        "gss_auth": False,
        "gss_kex": False,
        "host_based_auth": False,
        "x509_trusted_certs": None,
    }
    if login.password is not None:
        return {
            **options,
            "client_keys": None,
            "password": login.password,
            "preferred_auth": ("password", "keyboard-interactive"),
        }
    key = asyncssh.import_private_key(login.key)
    return {**options, "client_keys": [key], "preferred_auth": ("publickey",)}


async def _talk(process: asyncssh.SSHClientProcess[str], text: str) -> Output:
    process.stdin.write(text)
    process.stdin.write_eof()
    out, err, _ = await asyncio.gather(
        _tail(process.stdout), _tail(process.stderr), process.wait_closed()
    )
    status = process.exit_status
    if status is None:
        signal = process.exit_signal
        if signal is None:
            raise SshError("The connection was lost.", lost=True)
        status = -1
    return Output(status=status, out=out, err=err)


async def _tail(stream: asyncssh.SSHReader[str]) -> str:
    """Return the end of what a command says; the rest is read and forgotten."""
    kept = ""
    while block := await stream.read(4_096):
        kept = (kept + block)[-OUTPUT_CHARACTERS_MAX:]
    return kept


def _unreachable(address: str, port: int, error: Exception) -> SshError:
    return SshError(f"{address}, port {port}, cannot be reached: {_words(error)}", lost=True)


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip()[:300]


def sentences(output: Output) -> tuple[str, str]:
    """Return what a script said of its success, and why it failed, if it did."""
    said = marked(output.out, "TEXT ")
    failed = marked(output.err, "FAIL ") or _last(output.err) or _last(output.out)
    return said, failed or f"It ended with {output.status}."


def marked(text: str, mark: str) -> str:
    """Return the rest of the last line that begins with a mark, "" where there is none."""
    found: Sequence[str] = [line for line in text.splitlines() if line.startswith(mark)]
    return found[-1].removeprefix(mark).strip()[:1_000] if found else ""


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
