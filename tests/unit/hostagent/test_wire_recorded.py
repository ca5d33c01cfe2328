"""Recorded messages: each release understands the one before (contract C)."""

import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.types.host import Capabilities
from events.types.job import JobKind
from events.types.vm import DownReason, PauseReason
from events.wire.agent import (
    CapabilitiesItem,
    FullStateItem,
    Hello,
    JobItem,
    JobState,
    Orders,
    Report,
    ReportAck,
    Role,
    Telemetry,
    VmState,
    VmStateItem,
    Welcome,
)
from tests.unit.hostagent.samples import OTHER, VM

RECORDED = Path(__file__).parent / "recorded"
MESSAGES: dict[str, type[msgspec.Struct]] = {
    "hello": Hello,
    "welcome": Welcome,
    "orders": Orders,
    "report": Report,
    "ack": ReportAck,
    "telemetry": Telemetry,
}


def recorded(name: str) -> bytes:
    return (RECORDED / f"protocol-1-{name}.json").read_bytes()


@pytest.mark.parametrize("name", MESSAGES)
def test_recorded_messages_are_understood_with_every_field(name: str) -> None:
    message = msgspec.json.decode(recorded(name), type=MESSAGES[name])

    again: Any = msgspec.json.decode(msgspec.json.encode(message))

    _contains(again, msgspec.json.decode(recorded(name)))


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_of_a_later_release_are_passed_over(name: str) -> None:
    later: Any = msgspec.json.decode(recorded(name))
    later["field_of_a_later_release"] = {"any": 1}

    understood = msgspec.json.decode(msgspec.json.encode(later), type=MESSAGES[name])

    assert understood == msgspec.json.decode(recorded(name), type=MESSAGES[name])


def test_an_intent_means_what_it_meant() -> None:
    welcome = msgspec.json.decode(recorded("welcome"), type=Welcome)

    run, gone = welcome.intent.vms
    assert (run.vm, run.incarnation, run.role, run.started) == (VM, 3, Role.RUN, True)
    assert run.spec is not None
    assert run.spec.configuration.disks[0].volume == "v/root.qcow2"
    assert (gone.role, gone.reason) == (Role.ABSENT, DownReason.ADMIN)
    assert welcome.intent.jobs[0].kind is JobKind.VM_SHUTDOWN
    assert welcome.intent.jobs_withdrawn == ("job-0",)


def test_a_report_means_what_it_meant() -> None:
    report = msgspec.json.decode(recorded("report"), type=Report)

    assert report.items == (
        FullStateItem(
            vms=(
                VmStateItem(
                    vm=VM,
                    incarnation=3,
                    state=VmState.PAUSED,
                    guest_up=True,
                    restored=True,
                    pause_reason=PauseReason.IO_ERROR,
                    resets=2,
                    hostname="web",
                    addresses=("10.0.0.1",),
                    operating_system="Debian 12",
                ),
            ),
            unmanaged=("other",),
        ),
        VmStateItem(
            vm=OTHER,
            incarnation=1,
            state=VmState.ABSENT,
            reason=DownReason.CRASHED,
            detail="QEMU died",
        ),
        JobItem(job="job-1", vm=VM, state=JobState.FAILED, reason="deaf"),
        CapabilitiesItem(
            capabilities=Capabilities(
                architecture="x86_64",
                cpus=4,
                cpu_model="qemu64",
                memory_bytes=1024,
                machine_types=("pc-q35-7.2",),
            )
        ),
    )
    assert report.time == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def _contains(whole: Any, part: Any) -> None:
    """Require that every field of `part` is in `whole`."""
    if isinstance(part, dict):
        for name, value in part.items():
            assert name in whole, f"{name} was forgotten"
            _contains(whole[name], value)
    elif isinstance(part, list):
        assert len(whole) == len(part)
        for one, other in zip(whole, part, strict=True):
            _contains(one, other)
    else:
        assert whole == part
