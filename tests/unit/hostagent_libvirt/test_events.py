"""What libvirt calls back with, and what an agent is told of it."""

import libvirt
import pytest

from events.types.vm import DownReason, PauseReason
from hostagent.driver import DriverEvent, Happening
from hostagent.libvirt_events import (
    AGENT_CONNECTED,
    SHUTDOWN_BY_HOST,
    Interpreter,
    Lifecycle,
    Paused,
    RawEvent,
    RawKind,
    Resumed,
    Stopped,
    Suspended,
    io_error_reason,
    paused_reason,
)
from tests.unit.hostagent_libvirt.specs import VM

STRANGER = "0199c0de-0000-7000-8000-0000000000ff"


def lifecycle(event: int, detail: int = 0, uuid: str = VM) -> RawEvent:
    return RawEvent(kind=RawKind.LIFECYCLE, uuid=uuid, event=event, detail=detail)


@pytest.fixture
def interpreter() -> Interpreter:
    interpreter = Interpreter()
    interpreter.know(VM, 4)
    return interpreter


def read(interpreter: Interpreter, *events: RawEvent, at_s: float = 0.0) -> list[DriverEvent]:
    told = [interpreter.read(event, at_s) for event in events]
    return [event for event in told if event is not None]


@pytest.mark.parametrize(
    ("ours", "prefix"),
    [
        (Lifecycle, "VIR_DOMAIN_EVENT_"),
        (Stopped, "VIR_DOMAIN_EVENT_STOPPED_"),
        (Suspended, "VIR_DOMAIN_EVENT_SUSPENDED_"),
        (Paused, "VIR_DOMAIN_PAUSED_"),
    ],
)
def test_the_numbers_are_libvirts(
    ours: type[Lifecycle | Stopped | Suspended | Paused], prefix: str
) -> None:
    for each in ours:
        assert getattr(libvirt, prefix + each.name) == each.value
    assert libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST == SHUTDOWN_BY_HOST
    assert libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED == AGENT_CONNECTED


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([(Lifecycle.SHUTDOWN, 1), (Lifecycle.STOPPED, Stopped.SHUTDOWN)], DownReason.GUEST),
        ([(Lifecycle.STOPPED, Stopped.SHUTDOWN)], DownReason.GUEST),
        (
            [(Lifecycle.SHUTDOWN, 2), (Lifecycle.STOPPED, Stopped.SHUTDOWN)],
            DownReason.HOST_SHUTDOWN,
        ),
        ([(Lifecycle.STOPPED, Stopped.DESTROYED)], DownReason.ADMIN),
        ([(Lifecycle.STOPPED, Stopped.CRASHED)], DownReason.CRASHED),
        ([(Lifecycle.STOPPED, Stopped.FAILED)], DownReason.CRASHED),
        ([(Lifecycle.STOPPED, Stopped.SAVED)], DownReason.SUSPENDED),
        ([(Lifecycle.CRASHED, 0), (Lifecycle.STOPPED, Stopped.DESTROYED)], DownReason.CRASHED),
        ([(Lifecycle.STOPPED, Stopped.MIGRATED)], DownReason.MIGRATED),
        ([(Lifecycle.STOPPED, 99)], None),
    ],
)
def test_who_ended_it(
    interpreter: Interpreter, events: list[tuple[int, int]], reason: DownReason | None
) -> None:
    (told,) = read(interpreter, *(lifecycle(event, detail) for event, detail in events))
    assert (told.happening, told.vm, told.incarnation) == (Happening.ENDED, VM, 4)
    assert told.reason is reason
    # and what is over is not told of again
    assert read(interpreter, lifecycle(Lifecycle.STOPPED, Stopped.FAILED)) == []


def test_strangers_are_not_told_of(interpreter: Interpreter) -> None:
    assert read(interpreter, lifecycle(Lifecycle.STOPPED, 0, STRANGER)) == []
    assert interpreter.incarnation(STRANGER) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("enospc", PauseReason.NO_SPACE),
        ("No space left on device", PauseReason.NO_SPACE),
        ("Operation not permitted", PauseReason.PERMISSION),
        ("", PauseReason.IO_ERROR),
        ("eio", PauseReason.IO_ERROR),
    ],
)
def test_the_cause_comes_before_the_pause(
    interpreter: Interpreter, text: str, reason: PauseReason
) -> None:
    error = RawEvent(kind=RawKind.IO_ERROR, uuid=VM, text=text)
    (told,) = read(interpreter, error, lifecycle(Lifecycle.SUSPENDED, Suspended.IOERROR))
    assert (told.happening, told.pause_reason) == (Happening.PAUSED, reason)
    assert interpreter.pause_cause(VM) is reason
    # the next pause has its own cause
    (_, again) = read(
        interpreter,
        lifecycle(Lifecycle.RESUMED),
        lifecycle(Lifecycle.SUSPENDED, Suspended.IOERROR),
    )
    assert again.pause_reason is PauseReason.IO_ERROR
    assert io_error_reason(text) is reason


@pytest.mark.parametrize(
    ("detail", "reason"),
    [
        (Suspended.PAUSED, PauseReason.ADMIN),
        (Suspended.MIGRATED, PauseReason.OTHER),
        (Suspended.WATCHDOG, PauseReason.OTHER),
        (Suspended.POSTCOPY_FAILED, PauseReason.OTHER),
    ],
)
def test_other_pauses(interpreter: Interpreter, detail: int, reason: PauseReason) -> None:
    (told,) = read(interpreter, lifecycle(Lifecycle.SUSPENDED, detail))
    assert told.pause_reason is reason


def test_a_paused_domains_reason() -> None:
    assert paused_reason(Paused.USER) is PauseReason.ADMIN
    assert paused_reason(Paused.IOERROR) is PauseReason.IO_ERROR
    assert paused_reason(Paused.MIGRATION) is PauseReason.OTHER
    assert paused_reason(77) is PauseReason.OTHER


def test_only_what_was_paused_continues(interpreter: Interpreter) -> None:
    assert read(interpreter, lifecycle(Lifecycle.RESUMED)) == []
    interpreter.know(VM, 4, paused=True)
    (told,) = read(interpreter, lifecycle(Lifecycle.RESUMED))
    assert told.happening is Happening.CONTINUED


def test_that_all_has_come_by_post_copy_is_told_though_it_was_running(
    interpreter: Interpreter,
) -> None:
    (told,) = read(interpreter, lifecycle(Lifecycle.RESUMED, Resumed.MIGRATED))
    assert told.happening is Happening.CONTINUED


def test_one_reset_is_told_once(interpreter: Interpreter) -> None:
    reset = RawEvent(kind=RawKind.REBOOT, uuid=VM)
    told = [
        interpreter.read(reset, at_s) is not None for at_s in (10.0, 10.1, 10.9, 11.5, 13.0, 13.2)
    ]
    assert told == [True, False, False, False, True, False]
    interpreter.expect_reset(VM)
    assert interpreter.read(reset, 13.3) is not None


def test_a_guest_agent_that_goes_is_not_told_of(interpreter: Interpreter) -> None:
    came, went = (RawEvent(kind=RawKind.AGENT, uuid=VM, event=state) for state in (1, 2))
    assert [each.happening for each in read(interpreter, came, went)] == [Happening.GUEST_AGENT]


def test_another_run_is_another_run(interpreter: Interpreter) -> None:
    interpreter.know(VM, 5)
    interpreter.forget(VM, 4)
    (told,) = read(interpreter, lifecycle(Lifecycle.STARTED))
    assert (told.happening, told.incarnation) == (Happening.STARTED, 5)
    interpreter.forget(VM, 5)
    assert read(interpreter, lifecycle(Lifecycle.STARTED)) == []
