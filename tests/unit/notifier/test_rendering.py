"""What a notification says: its names, the mail, the trap's variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from events.types.base import Severity
from events.types.operation import OperationEnded, Outcome
from notifier.mail import MailChannel, MailSettings, body, compose, message_id, subject
from notifier.notification import Kind, notification_of
from notifier.traps import TrapChannel, TrapSettings, parse_manager, variables
from tests.unit.dwh.samples import host_added, recorded, vm_down, vm_up
from tests.unit.notifier.samples import LOG, notification

OBJECTS = "1.3.6.1.4.1.2312.13.1.1.2.1"


def test_a_vms_event_names_vm_and_host() -> None:
    told = notification_of(recorded(4, "vm/v1", vm_down()), LOG)
    assert told is not None
    assert (told.code, told.name, told.kind) == (119, "VM_DOWN_ERROR", Kind.ALERT)
    assert (told.vm_id, told.vm_name) == ("v1", "web01")
    assert (told.host_id, told.host_name) == ("h1", "node1")
    assert told.id == f"{LOG}/4"


def test_what_ends_a_trouble_is_a_resolution() -> None:
    told = notification_of(recorded(5, "vm/v1", vm_up()), LOG)
    assert told is not None
    assert (told.kind, told.resolves) == (Kind.RESOLVE, "VM_DOWN_ERROR")


def test_an_operations_failure_is_about_its_target() -> None:
    ended = OperationEnded(
        kind="vm.start", target="vm/v1", name="web01", outcome=Outcome.FAILED, reason="no host"
    )
    told = notification_of(recorded(6, "operation/x", ended), LOG)
    assert told is not None
    assert (told.vm_id, told.vm_name, told.stream) == ("v1", "web01", "operation/x")


def test_a_hosts_event_names_the_host_and_others_nothing() -> None:
    told = notification_of(recorded(1, "host/h1", host_added()), LOG)
    assert told is not None
    assert (told.host_id, told.host_name, told.vm_id) == ("h1", "node1", "")


def test_the_subject_says_the_news_in_one_line() -> None:
    assert subject(notification()) == (
        "[Chronovisor] Error: VM web01 is down with error on host node1 (crashed)."
    )
    assert subject(notification(kind=Kind.RESOLVE)).startswith("[Chronovisor] Solved: ")
    tricky = subject(notification(message="a\r\nBcc: mallory@example.org\n" + "x" * 500))
    assert "\n" not in tricky
    assert "\r" not in tricky
    assert len(tricky) == 200


def test_the_body_has_ovirts_fields() -> None:
    lines = body(notification()).splitlines()
    assert lines[:6] == [
        "Time: 2026-01-02 03:04:05 UTC",
        "Message: VM web01 is down with error on host node1 (crashed).",
        "Severity: ERROR",
        "User Name: host/h1",
        "VM Name: web01",
        "Host Name: node1",
    ]
    assert "Event: VM_DOWN_ERROR (119)" in lines
    assert not any(line.startswith("Data Center Name") for line in lines)


def test_the_message_id_is_the_same_each_time_and_differs_by_address() -> None:
    first = message_id(notification(), "ann@example.org")
    assert first == message_id(notification(), "Ann@Example.org")
    assert first != message_id(notification(), "ben@example.org")
    assert first != message_id(notification(8), "ann@example.org")


def test_a_mail_survives_its_own_bytes() -> None:
    message = compose(
        notification(message="Grüße, 日本 " + "x" * 1_500), "ann@example.org", "c@example.org", None
    )
    content = message.as_bytes()
    assert max(len(line) for line in content.splitlines()) < 998
    assert b"Auto-Submitted: auto-generated" in content


@pytest.mark.parametrize(
    "settings",
    [
        MailSettings(server="localhost", encryption="tls"),
        MailSettings(server="localhost", password_file=Path("/nowhere")),
        MailSettings(server="localhost", user="u", password_file=Path("/nowhere")),
        MailSettings(server="localhost", sender="nobody"),
        MailSettings(server="localhost", reply_to="nobody"),
    ],
)
def test_mail_settings_that_cannot_work_are_refused(settings: MailSettings) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        MailChannel(settings)


def test_a_trap_has_the_mibs_variables() -> None:
    found = dict(variables(notification()))
    assert {oid.removeprefix(OBJECTS): str(value) for oid, value in found.items()} == {
        ".1": "7",
        ".2": "VM_DOWN_ERROR",
        ".3": "119",
        ".4": "2",
        ".5": "VM web01 is down with error on host node1 (crashed).",
        ".6": "1",
        ".7": "2026-01-02T03:04Z",
        ".100": "host/h1",
        ".102": "web01",
        ".103": "v1",
        ".104": "node1",
        ".105": "h1",
    }
    alert = dict(variables(notification(severity=Severity.ALERT, kind=Kind.RESOLVE)))
    assert (int(alert[f"{OBJECTS}.4"]), int(alert[f"{OBJECTS}.6"])) == (10, 0)


def test_a_long_message_fits_a_datagram() -> None:
    long = dict(variables(notification(message="ü" * 5_000)))
    assert len(bytes(long[f"{OBJECTS}.5"])) <= 1_000
    bytes(long[f"{OBJECTS}.5"]).decode()


def test_managers_are_read_with_and_without_port() -> None:
    assert parse_manager("nms.example.org") == ("nms.example.org", 162)
    assert parse_manager("10.0.0.1:1162") == ("10.0.0.1", 1162)
    assert parse_manager("[fd00::1]:1162") == ("fd00::1", 1162)
    for wrong in ("", "a:b", "a:0", "a:70000", "[fd00::1", "a b"):
        with pytest.raises(ValueError, match="an SNMP manager is"):
            parse_manager(wrong)


def test_a_profile_stands_for_each_of_its_managers() -> None:
    channel = TrapChannel({"": TrapSettings(managers=("a", "b:99"))})
    assert channel.addresses("") == ("@a", "@b:99")
    with pytest.raises(ValueError, match="there is no SNMP profile 'x'"):
        channel.addresses("x")
