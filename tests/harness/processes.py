"""Waiting with a limit, ports, signals and a look into the process table: what every part of the
harness shares.

Nothing here knows what is started. A process is named by its pid *and* its start time, since pids
come back: a cleaner that goes by the pid alone would some day kill a stranger.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

PROC = Path("/proc")
T = TypeVar("T")
PORT_FIRST, PORT_LAST = 20_000, 32_000
PORT_ATTEMPTS_MAX = 200
_given_ports: set[int] = set()


class HarnessError(Exception):
    """A part of the test harness could not be built, started or reached."""


def time_scale() -> float:
    """The factor by which the product's time-outs are scaled in this run (CHRONOVISOR_TIME_SCALE,
    default 1).
    """
    return float(os.environ.get("CHRONOVISOR_TIME_SCALE", "1"))


def scaled(duration_s: float) -> float:
    """A duration of the product, in seconds, as it passes under the run's time scale."""
    return duration_s * time_scale()


def patience() -> float:
    """The factor by which tests wait longer than usual, for a slow machine
    (CHRONOVISOR_TEST_PATIENCE, default 1).
    """
    return float(os.environ.get("CHRONOVISOR_TEST_PATIENCE", "1"))


def wait_until(
    predicate: Callable[[], T],
    timeout_s: float = 10.0,
    what: str = "the condition",
    *,
    interval_s: float = 0.05,
    tolerate: tuple[type[Exception], ...] = (),
    detail: Callable[[], str] | None = None,
) -> T:
    """Call `predicate` until it answers something true, and return that.

    Errors of the types in `tolerate` count as "not yet". When the time is over, the failure says
    what was awaited, for how long, what the last answer or error was, and what `detail` adds (a
    log's tail, say).
    """
    limit_s = timeout_s * patience()
    started = time.monotonic()
    while True:
        last: object
        try:
            answer = predicate()
        except tolerate as error:
            last = error
        else:
            if answer:
                return answer
            last = answer
        if time.monotonic() - started >= limit_s:
            more = f"\n{detail()}" if detail else ""
            message = f"waited {limit_s:.1f} s for {what}; last seen: {last!r}{more}"
            raise TimeoutError(message)
        time.sleep(interval_s)


async def eventually(
    probe: Callable[[], Awaitable[T]],
    timeout_s: float = 10.0,
    what: str = "the condition",
    *,
    interval_s: float = 0.05,
    tolerate: tuple[type[Exception], ...] = (),
) -> T:
    """`wait_until` for a test that is itself asynchronous: the event loop goes on meanwhile."""
    limit_s = timeout_s * patience()
    started = time.monotonic()
    while True:
        last: object
        try:
            answer = await probe()
        except tolerate as error:
            last = error
        else:
            if answer:
                return answer
            last = answer
        if time.monotonic() - started >= limit_s:
            message = f"waited {limit_s:.1f} s for {what}; last seen: {last!r}"
            raise TimeoutError(message)
        await asyncio.sleep(interval_s)


def free_port() -> int:
    """A TCP port of loopback that nobody uses and that stays free over a restart of whoever gets
    it.

    Not from binding port 0: such a port lies in the range that the kernel gives to outgoing
    connections, so while a killed server is down, any client on the machine may take it and the
    restart on the same port fails.
    """
    for _ in range(PORT_ATTEMPTS_MAX):
        port = PORT_FIRST + secrets.randbelow(PORT_LAST - PORT_FIRST)
        if port in _given_ports:
            continue
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given_ports.add(port)
        return port
    message = f"no free port between {PORT_FIRST} and {PORT_LAST}"
    raise HarnessError(message)


def accepts_connections(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens on the TCP port."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log, for a failure's message."""
    try:
        content = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"({error})"
    return "\n".join([f"--- the end of {path.name}:", *content[-lines:]])


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """One process for all time: its pid and when it started, in the kernel's ticks."""

    pid: int
    start_ticks: int

    @staticmethod
    def of(pid: int) -> "ProcessIdentity | None":
        """The identity of a live process; None if there is none (a zombie is none)."""
        fields = _stat_fields(pid)
        if fields is None or fields[0] == "Z":
            return None
        return ProcessIdentity(pid=pid, start_ticks=int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessIdentity.of(self.pid) == self


def run_command(
    command: Sequence[str | Path], *, timeout_s: float = 60.0, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command of the harness's own to its end; with `check`, its failure is an error that
    shows its output.
    """
    words = [str(word) for word in command]
    result = subprocess.run(
        words, check=False, capture_output=True, text=True, timeout=timeout_s * patience()
    )
    if check and result.returncode != 0:
        message = f"{words} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
        raise HarnessError(message)
    return result


def start_process(
    command: Sequence[str | Path],
    log_file: Path,
    *,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
    with_input: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own (a Ctrl-C at the tests does not reach it), its output
    added to a log.
    """
    with log_file.open("ab") as log:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=None if environment is None else {**os.environ, **environment},
            start_new_session=True,
        )


def _stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the name before them may hold anything."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()


def all_pids() -> Iterator[int]:
    """Every pid of the machine that this process can see."""
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def children(pid: int) -> list[int]:
    """The live direct children of a process."""
    found = []
    for candidate in all_pids():
        fields = _stat_fields(candidate)
        if fields is not None and fields[0] != "Z" and int(fields[1]) == pid:
            found.append(candidate)
    return sorted(found)


def descendants(pid: int) -> list[int]:
    """The live children of a process, their children, and so on, parents before children."""
    found: list[int] = []
    queue = [pid]
    while queue:
        direct = children(queue.pop(0))
        found.extend(direct)
        queue.extend(direct)
    return found


def command_line(pid: int) -> list[str]:
    """The arguments that a process was started with; empty if it is gone."""
    try:
        raw = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0")[:-1]]


def namespace_of(pid: int, kind: str) -> str | None:
    """The identity of a process's namespace (`net`, `pid`, `mnt`, ...); None if it is gone."""
    try:
        return str((PROC / str(pid) / "ns" / kind).readlink())
    except OSError:
        return None


def send_signal(pid: int, number: signal.Signals) -> bool:
    """Signal a process; False if it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_tree(pid: int, timeout_s: float = 10.0) -> None:
    """Kill a process with everything below it, and wait until all of it is gone.

    The parent is stopped first, so that it cannot start another child while we look for its
    children.
    """
    send_signal(pid, signal.SIGSTOP)
    doomed = [ProcessIdentity.of(each) for each in (pid, *descendants(pid))]
    identities = [identity for identity in doomed if identity is not None]
    for identity in identities:
        send_signal(identity.pid, signal.SIGKILL)
    wait_until(
        lambda: not any(identity.alive for identity in identities),
        timeout_s,
        f"the end of process {pid} and of everything below it",
    )


def pause_tree(pid: int) -> None:
    """SIGSTOP a process and everything below it, the parent first."""
    send_signal(pid, signal.SIGSTOP)
    for child in descendants(pid):
        send_signal(child, signal.SIGSTOP)


def resume_tree(pid: int) -> None:
    """SIGCONT a process and everything below it, the parent last."""
    for child in reversed(descendants(pid)):
        send_signal(child, signal.SIGCONT)
    send_signal(pid, signal.SIGCONT)


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """Hold a process and everything below it still for the length of a `with` block."""
    pause_tree(pid)
    try:
        yield
    finally:
        resume_tree(pid)
