"""What the supervisor is told about a part, and what it tells about it."""

import datetime as dt
import enum
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

BROKEN_SETTING_EXIT_CODE = 78  # EX_CONFIG of sysexits.h: starting again would not help
LOG_TEXT_BYTES_MAX = 64 * 1024


class SupervisorRefusal(Exception):
    """The supervisor cannot do what it was asked for."""


class AlreadyRunning(SupervisorRefusal):
    """Another supervisor works in this folder."""


class BrokenPlan(SupervisorRefusal):
    """The parts do not make a whole: a name is doubled or missing, or a circle waits for itself."""


class PartFailed(SupervisorRefusal):
    """A part did not start."""

    def __init__(self, part: str, reason: str, log: Path) -> None:
        super().__init__(f"{part} did not start: {reason} (its log is {log})")
        self.part = part
        self.reason = reason
        self.log = log


class PartState(enum.StrEnum):
    """Where a part stands."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    FAILED = "failed"


class Launched(msgspec.Struct, frozen=True, kw_only=True):
    """A process of a part, as a readiness probe sees it."""

    pid: int
    log: Path
    log_offset: int

    def log_text(self) -> str:
        """What the process has logged, its last 64 KiB at most."""
        try:
            with self.log.open("rb") as source:
                size = source.seek(0, 2)
                # A rotation has emptied the file meanwhile: all of it is new.
                begin = self.log_offset if self.log_offset <= size else 0
                source.seek(max(begin, size - LOG_TEXT_BYTES_MAX))
                return source.read(LOG_TEXT_BYTES_MAX).decode(errors="replace")
        except FileNotFoundError:
            return ""


Probe = Callable[[Launched], Awaitable[bool]]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A process that the supervisor keeps running.

    `after` names the parts that must be ready before this one is started for the first time;
    later it has to bear their restarts. Without `ready` a part is ready once it runs.
    `environment` comes on top of our own, or alone where `inherit_environment` is off.
    `before_start` runs in a thread before each start; what it raises counts as a failed start.
    `death_signal` is what the kernel sends the part should the supervisor die. `explain` finds in
    the end of its log why it ended, None where that does not tell.
    """

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str] = {}
    inherit_environment: bool = True
    working_folder: Path | None = None
    uid: int | None = None
    gid: int | None = None
    after: tuple[str, ...] = ()
    ready: Probe | None = None
    ready_timeout_s: float = 30.0
    stop_signal: int = signal.SIGTERM
    stop_timeout_s: float = 10.0
    death_signal: int = signal.SIGKILL
    before_start: Callable[[], None] | None = None
    explain: Callable[[str], str | None] | None = None


class PartStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a part is doing. `since` is when it came into its state."""

    name: str
    state: PartState
    since: dt.datetime
    pid: int | None = None
    restarts: int = 0
    last_error: str | None = None


class SupervisorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How all parts are doing, in the order of their start."""

    pid: int
    parts: tuple[PartStatus, ...]


def start_order(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts, each behind those that it waits for; BrokenPlan if there is no such order."""
    by_name = {part.name: part for part in parts}
    if len(by_name) != len(parts):
        raise BrokenPlan("two parts have one name")
    for part in parts:
        for name in part.after:
            if name not in by_name:
                raise BrokenPlan(f"{part.name} waits for {name}, which is no part")
    ordered: dict[str, Part] = {}
    while len(ordered) < len(parts):
        free = [
            part
            for part in parts
            if part.name not in ordered and all(name in ordered for name in part.after)
        ]
        if not free:
            waiting = ", ".join(part.name for part in parts if part.name not in ordered)
            raise BrokenPlan(f"these parts wait for each other: {waiting}")
        ordered.update((part.name, part) for part in free)
    return tuple(ordered.values())
