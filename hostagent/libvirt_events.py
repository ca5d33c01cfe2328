"""From libvirt's callbacks to what happened: pure, one event in, what an agent is told out.

libvirt says things that mean nothing alone (a guest "resumes" while it starts, pauses while it is
saved) and others in two parts (the cause of an I/O error comes before the pause). So a little is
remembered of each VM, and forgotten when it ends.
"""

from __future__ import annotations

import enum

import msgspec

from events.types.migration import Held
from events.types.vm import DownReason, PauseReason
from hostagent.driver import DriverEvent, Happening


class RawKind(enum.Enum):
    """Which of libvirt's callbacks spoke."""

    LIFECYCLE = enum.auto()
    IO_ERROR = enum.auto()
    REBOOT = enum.auto()
    AGENT = enum.auto()


class RawEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A callback's arguments. `uuid` is the domain's."""

    kind: RawKind
    uuid: str
    event: int = 0
    detail: int = 0
    text: str = ""


# The numbers are libvirt's interface and never change; a test compares them with the library's.
class Lifecycle(enum.IntEnum):
    """virDomainEventType."""

    STARTED = 2
    SUSPENDED = 3
    RESUMED = 4
    STOPPED = 5
    SHUTDOWN = 6
    CRASHED = 8


class Stopped(enum.IntEnum):
    """virDomainEventStoppedDetailType."""

    SHUTDOWN = 0
    DESTROYED = 1
    CRASHED = 2
    MIGRATED = 3
    SAVED = 4
    FAILED = 5


class Suspended(enum.IntEnum):
    """virDomainEventSuspendedDetailType."""

    PAUSED = 0
    MIGRATED = 1
    IOERROR = 2
    WATCHDOG = 3
    POSTCOPY = 7
    POSTCOPY_FAILED = 8


class Paused(enum.IntEnum):
    """virDomainPausedReason."""

    USER = 1
    MIGRATION = 2
    SAVE = 3
    IOERROR = 5
    SHUTTING_DOWN = 8
    STARTING_UP = 11
    POSTCOPY = 12
    POSTCOPY_FAILED = 13


class Running(enum.IntEnum):
    """virDomainRunningReason."""

    POSTCOPY = 10
    POSTCOPY_FAILED = 11


class Resumed(enum.IntEnum):
    """virDomainEventResumedDetailType."""

    MIGRATED = 1
    POSTCOPY_FAILED = 4


SHUTDOWN_BY_HOST = 2
RESETS_AS_ONE_S = 1.0
"""Firmware resets the machine a few times more on its way up: that is one reset to people."""
AGENT_CONNECTED = 1
_HELD: dict[int, Held] = {
    Paused.MIGRATION: Held.SWITCH_OVER,
    Paused.POSTCOPY: Held.POST_COPY,
    Paused.POSTCOPY_FAILED: Held.POST_COPY,
}


def held(paused: int | None, running: int | None) -> Held | None:
    """Return how far the migration had come that a domain is held for, by libvirt's reasons for
    its being paused and running; None for one that is not held.
    """
    if running == Running.POSTCOPY_FAILED:
        return Held.POST_COPY
    return None if paused is None else _HELD.get(paused)


DOWN_REASONS = {
    Stopped.SHUTDOWN: DownReason.GUEST,
    Stopped.DESTROYED: DownReason.ADMIN,
    Stopped.CRASHED: DownReason.CRASHED,
    Stopped.SAVED: DownReason.SUSPENDED,
    Stopped.FAILED: DownReason.CRASHED,
    Stopped.MIGRATED: DownReason.MIGRATED,
}
DOWN_DETAILS = {
    Stopped.SHUTDOWN: "the guest shut down",
    Stopped.DESTROYED: "powered off",
    Stopped.CRASHED: "the guest crashed",
    Stopped.MIGRATED: "the guest runs on another host now",
    Stopped.SAVED: "the guest's memory is saved",
    Stopped.FAILED: "QEMU died",
}


def io_error_reason(text: str) -> PauseReason:
    """Return what an I/O error's own words mean; libvirt passes on QEMU's, which are few."""
    words = text.lower()
    if words == "enospc" or "no space" in words:
        return PauseReason.NO_SPACE
    if words == "eperm" or "permission" in words or "not permitted" in words:
        return PauseReason.PERMISSION
    return PauseReason.IO_ERROR


def paused_reason(reason: int) -> PauseReason:
    """Return why a domain is paused, from virDomainPausedReason."""
    if reason == Paused.USER:
        return PauseReason.ADMIN
    return PauseReason.IO_ERROR if reason == Paused.IOERROR else PauseReason.OTHER


class Memory:
    """What is known of one VM between two events."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.paused = False
        self.shut_down_by_host = False
        self.panicked = False
        self.io_error: PauseReason | None = None
        self.reset_at_s = -RESETS_AS_ONE_S


class Interpreter:
    """Turns raw events of known VMs into the driver's events; strangers' events are dropped."""

    def __init__(self) -> None:
        self._known: dict[str, Memory] = {}

    def know(self, uuid: str, incarnation: int, *, paused: bool = False) -> None:
        """Learn of a run: before it is started, or found as running."""
        found = self._known.get(uuid)
        if found is None or found.incarnation != incarnation:
            self._known[uuid] = Memory(incarnation)
        self._known[uuid].paused = paused

    def forget(self, uuid: str, incarnation: int) -> None:
        """Forget a run that never came to be or is gone."""
        if self.incarnation(uuid) == incarnation:
            del self._known[uuid]

    def incarnation(self, uuid: str) -> int:
        """Return the run that is known of a VM; 0 if none."""
        found = self._known.get(uuid)
        return found.incarnation if found else 0

    def pause_cause(self, uuid: str) -> PauseReason | None:
        """Return the cause of a VM's I/O error, if one was told."""
        found = self._known.get(uuid)
        return found.io_error if found else None

    def expect_reset(self, uuid: str) -> None:
        """Tell of the next reset of a VM, however shortly it comes after another."""
        if uuid in self._known:
            self._known[uuid].reset_at_s = -RESETS_AS_ONE_S

    def read(self, raw: RawEvent, at_s: float) -> DriverEvent | None:
        """Return what an agent is to be told of the event; None for nothing. `at_s` is now, on a
        clock that never jumps.
        """
        vm = self._known.get(raw.uuid)
        if vm is None:
            return None
        if raw.kind is RawKind.IO_ERROR:
            vm.io_error = io_error_reason(raw.text)
        elif raw.kind is RawKind.REBOOT:
            previous, vm.reset_at_s = vm.reset_at_s, at_s
            if at_s - previous >= RESETS_AS_ONE_S:
                return self._event(Happening.RESET, raw, vm)
        elif raw.kind is RawKind.AGENT:
            if raw.event == AGENT_CONNECTED:
                return self._event(Happening.GUEST_AGENT, raw, vm)
        else:
            return self._lifecycle(raw, vm)
        return None

    def _event(
        self,
        happening: Happening,
        raw: RawEvent,
        vm: Memory,
        *,
        reason: DownReason | None = None,
        pause_reason: PauseReason | None = None,
        detail: str = "",
    ) -> DriverEvent:
        return DriverEvent(
            happening=happening,
            vm=raw.uuid,
            incarnation=vm.incarnation,
            reason=reason,
            pause_reason=pause_reason,
            detail=detail,
        )

    def _lifecycle(self, raw: RawEvent, vm: Memory) -> DriverEvent | None:
        if raw.event == Lifecycle.STARTED:
            return self._event(Happening.STARTED, raw, vm)
        if raw.event == Lifecycle.SUSPENDED:
            vm.paused = True
            return self._event(
                Happening.PAUSED, raw, vm, pause_reason=self._pause_reason(raw.detail, vm)
            )
        if raw.event == Lifecycle.RESUMED and raw.detail == Resumed.POSTCOPY_FAILED:
            vm.paused = True  # libvirt says "running", but the rest of its memory does not come
            return self._event(Happening.PAUSED, raw, vm, pause_reason=PauseReason.OTHER)
        if raw.event == Lifecycle.RESUMED:
            news = vm.paused or raw.detail == Resumed.MIGRATED  # by post-copy, all has come now
            vm.paused, vm.io_error = False, None
            return self._event(Happening.CONTINUED, raw, vm) if news else None
        if raw.event == Lifecycle.SHUTDOWN:
            vm.shut_down_by_host = raw.detail == SHUTDOWN_BY_HOST
        elif raw.event == Lifecycle.CRASHED:
            vm.panicked = True
        elif raw.event == Lifecycle.STOPPED:
            return self._stopped(raw, vm)
        return None

    def _pause_reason(self, detail: int, vm: Memory) -> PauseReason:
        if detail == Suspended.PAUSED:
            return PauseReason.ADMIN
        if detail == Suspended.IOERROR:
            return vm.io_error or PauseReason.IO_ERROR
        return PauseReason.OTHER

    def _stopped(self, raw: RawEvent, vm: Memory) -> DriverEvent:
        del self._known[raw.uuid]
        detail = DOWN_DETAILS.get(Stopped(raw.detail), "") if raw.detail in DOWN_DETAILS else ""
        reason = DOWN_REASONS.get(Stopped(raw.detail)) if raw.detail in DOWN_REASONS else None
        if vm.panicked:
            reason, detail = DownReason.CRASHED, "the guest's kernel panicked"
        elif raw.detail == Stopped.SHUTDOWN and vm.shut_down_by_host:
            reason, detail = DownReason.HOST_SHUTDOWN, "the host ended QEMU in good order"
        return self._event(Happening.ENDED, raw, vm, reason=reason, detail=detail)
