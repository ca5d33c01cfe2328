"""Child processes and their logs.

Children write into their log files themselves, not through a pipe: so nothing blocks them while
the supervisor is paused or busy, and their last words are kept if it dies.
"""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from chronovisor.supervisor_parts import Launched, Part

LOG_BYTES_MAX = 10 * 1024 * 1024
LOGS_KEPT = 5
ERROR_CHARACTERS_MAX = 2000
ENDINGS = ("a setting is wrong", "the process ends")
"""The last things that our processes log (chronovisor/running.py), each with a reason."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """A running process of a part. Make it in the main thread: its parent, to the kernel, is the
    thread that forked it, whose end would be taken for the supervisor's death.
    """

    def __init__(self, part: Part, log: Path) -> None:
        rotate_log(log)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            offset = os.fstat(descriptor).st_size
            self._process = subprocess.Popen(
                part.argv,
                env={**(os.environ if part.inherit_environment else {}), **part.environment},
                cwd=part.working_folder,
                user=part.uid,
                group=part.gid,
                extra_groups=None if part.uid is None else [],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                # A session of its own: Ctrl-C at the terminal reaches the supervisor alone, which
                # then stops the parts in their order.
                start_new_session=True,
                # It runs after the change of user, which would clear the setting. Between fork
                # and exec it makes two system calls by what is already loaded, and nothing else.
                preexec_fn=_die_with_parent(part.death_signal),  # noqa: PLW1509
            )
        finally:
            os.close(descriptor)
        self.launched = Launched(pid=self._process.pid, log=log, log_offset=offset)
        self._exited = asyncio.Event()
        self._watch = os.pidfd_open(self._process.pid)
        asyncio.get_running_loop().add_reader(self._watch, self._on_exit)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def wait(self) -> int:
        """The exit code, once there is one; a signal's number negated."""
        await self._exited.wait()
        return self._process.wait()

    def send(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, number: int, timeout_s: float, hurry: asyncio.Event) -> None:
        """Ask the process to end, and kill it after `timeout_s` or as soon as `hurry` is set."""
        self.send(number)
        self.send(signal.SIGCONT)  # a paused one would not even see the request
        waiting = [asyncio.create_task(self._exited.wait()), asyncio.create_task(hurry.wait())]
        try:
            await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if not self._exited.is_set():
            self.send(signal.SIGKILL)
        await self._exited.wait()

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._watch)
        os.close(self._watch)
        self._process.wait()
        self._exited.set()


def rotate_log(log: Path, *, bytes_max: int = LOG_BYTES_MAX, kept: int = LOGS_KEPT) -> bool:
    """Move a log beyond `bytes_max` aside as `<log>.1`, older ones up to `<log>.<kept>`.

    The child keeps its file, which is copied and emptied: being opened for appending it goes on
    at the new end. A line written in the instant between the two is lost.
    """
    try:
        if log.stat().st_size <= bytes_max:
            return False
    except FileNotFoundError:
        return False
    for number in range(kept - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            log.with_name(f"{log.name}.{number}").replace(log.with_name(f"{log.name}.{number + 1}"))
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    log.with_name(f"{log.name}.1").chmod(0o600)
    os.truncate(log, 0)
    return True


def describe_exit(code: int) -> str:
    """An exit code in words: `exit code 1`, `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def last_words(part: Part, text: str) -> str:
    """What the end of a part's log says of its end, as briefly as it can be said.

    The part's own explanation, else the reason that our processes log last, else the text's end.
    """
    explained = None if part.explain is None else part.explain(text)
    if explained:
        return explained
    for line in reversed(text.splitlines()):
        with contextlib.suppress(msgspec.MsgspecError):
            said = msgspec.json.decode(line, type=_Said)
            if said.event in ENDINGS and said.reason:
                return " ".join(said.reason.split())
    return text.strip()[-ERROR_CHARACTERS_MAX:]


class _Said(msgspec.Struct):
    event: str = ""
    reason: str = ""


def _die_with_parent(number: int) -> Callable[[], None]:
    parent = os.getpid()

    def arrange() -> None:
        failed = _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0
        # The parent may have died before the arrangement stood.
        if failed or os.getppid() != parent:
            os._exit(127)

    return arrange
