"""The MIB that is shipped says what the traps carry."""

from __future__ import annotations

import re

from notifier.traps import AUDIT_NOTIFICATION, AUDIT_OBJECTS, SEVERITIES, STATUSES, variables
from tests.harness.workspace import PROJECT_ROOT
from tests.unit.notifier.samples import notification

MIB = (PROJECT_ROOT / "docs" / "mib" / "OVIRT-MIB.txt").read_text()


def numbers() -> dict[str, str]:
    """Every name with its whole number, by following each assignment to its parent."""
    found = {
        name: (parent, number)
        for name, parent, number in re.findall(
            r"^(\w+) (?:OBJECT IDENTIFIER|OBJECT-TYPE|NOTIFICATION-TYPE|MODULE-IDENTITY)\b"
            r".*?::= \{ (\w+) (\d+) \}",
            MIB,
            re.DOTALL | re.MULTILINE,
        )
    }
    known = {"enterprises": "1.3.6.1.4.1"}
    while found:
        ready = {name: each for name, each in found.items() if each[0] in known}
        assert ready, f"assigned below nothing: {found}"
        for name, (parent, number) in ready.items():
            known[name] = f"{known[parent]}.{number}"
            del found[name]
    return known


def test_every_variable_of_a_trap_is_in_it() -> None:
    known = set(numbers().values())
    assert AUDIT_NOTIFICATION in known
    assert {oid for oid, _ in variables(notification())} <= known


def test_names_have_their_numbers() -> None:
    known = numbers()
    assert known["ovirtEngineNotifierNotificationsAudit"] == AUDIT_NOTIFICATION
    assert known["ovirtEngineNotifierId"] == f"{AUDIT_OBJECTS}.3"
    assert known["ovirtEngineNotifierVmName"] == f"{AUDIT_OBJECTS}.102"
    assert known["ovirtEngineNotifierStoragePoolId"] == f"{AUDIT_OBJECTS}.109"


def test_enumerations_agree() -> None:
    severities = {each.value: number for each, number in SEVERITIES.items()}
    words = ", ".join(f"{name}({number})" for name, number in severities.items())
    assert f"INTEGER {{ {words} }}" in MIB
    assert {each.value for each in STATUSES} == {"alert", "resolve"}
    assert "resolveMessage(0), alertMessage(1)" in MIB
