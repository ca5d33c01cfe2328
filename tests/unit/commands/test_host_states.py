"""A host's states: which actions oVirt refuses in which, and that each state has a way out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from commands.host.activate import ActivateHost
from commands.host.approve import ApproveHost
from commands.host.confirm_off import ConfirmHostOff
from commands.host.force_remove import ForceRemoveHost
from commands.host.maintenance import MaintainHost
from commands.host.remove import RemoveHost
from commands.kernel.command import Command
from commands.kernel.testing import Given
from commands.state.host import HOST, HostStatus
from events.types import host as h
from events.types.base import Event
from events.types.host_failing import HostFailing
from tests.unit.commands.samples import HOST_ID, host
from tests.unit.commands.test_host import ALLOWED

S = HostStatus
ENTERED = h.HostMaintenanceEntered(name="kvm01")
FAILING = HostFailing(name="kvm01", vms=("1", "2", "3"), told="a, b, c")
MAINTAIN, REMOVE = MaintainHost(id=HOST_ID), RemoveHost(id=HOST_ID)
CONFIRM = ConfirmHostOff(id=HOST_ID, name="kvm01")
FORCE = ForceRemoveHost(id=HOST_ID, name="kvm01")
Move = Command | Event

OVIRT_REFUSES: dict[HostStatus, frozenset[str]] = {
    S.MAINTENANCE: frozenset({"approve", "confirm-off", "maintenance"}),
    S.UP: frozenset({"activate", "approve", "confirm-off", "remove"}),
    S.ERROR: frozenset({"approve", "confirm-off", "refresh", "remove"}),
    S.INSTALLING: frozenset({"activate", "approve", "confirm-off", "maintenance", "refresh"}),
    S.NON_RESPONSIVE: frozenset({"activate", "approve", "refresh", "remove"}),
    S.PREPARING_FOR_MAINTENANCE: frozenset(
        {"approve", "confirm-off", "maintenance", "refresh", "remove"}
    ),
    S.UNASSIGNED: frozenset({"activate", "approve", "confirm-off", "refresh", "remove"}),
    S.NON_OPERATIONAL: frozenset({"approve", "remove"}),
    S.PENDING_APPROVAL: frozenset({"activate", "confirm-off", "maintenance", "refresh"}),
    S.INSTALL_FAILED: frozenset({"approve", "refresh"}),
}
"""oVirt's matrix, where it has the action and the state; removing an installing host apart, which
oVirt refuses while its work goes on, as `require_no_ssh` does.
"""
OTHERWISE: dict[tuple[HostStatus, str], str] = {
    (S.INSTALLING, "approve"): "a host may be approved before its machine joins",
    (S.INSTALL_FAILED, "approve"): "a host may be approved before its machine joins",
    (S.ERROR, "approve"): "that is how a host is let in again whose identity two machines used",
    (S.ERROR, "confirm-off"): "two machines use its identity: what runs there is not known",
    (S.UNASSIGNED, "remove"): "its agent never said hello: anything half configured can go",
    (S.UNASSIGNED, "confirm-off"): "after a restore it may have been in service: it is not heard",
}
"""What is allowed all the same, and why."""


@pytest.mark.parametrize("status", list(OVIRT_REFUSES))
def test_what_ovirt_refuses_in_a_state_is_refused_but_for_reasons(status: HostStatus) -> None:
    allowed = {verb for verb in OVIRT_REFUSES[status] if status in ALLOWED[verb]}
    assert allowed == {verb for where, verb in OTHERWISE if where is status}


WAYS_OUT: dict[HostStatus, tuple[Move, ...]] = {
    S.INSTALLING: (REMOVE,),
    S.INSTALL_FAILED: (REMOVE,),
    S.PENDING_APPROVAL: (REMOVE,),
    S.UNASSIGNED: (REMOVE,),
    S.UP: (MAINTAIN, ENTERED, REMOVE),
    S.NON_RESPONSIVE: (CONFIRM, FORCE),
    S.NON_OPERATIONAL: (MAINTAIN, ENTERED, REMOVE),
    S.ERROR: (ApproveHost(id=HOST_ID), MAINTAIN, ENTERED, REMOVE),
    S.PREPARING_FOR_MAINTENANCE: (ActivateHost(id=HOST_ID), MAINTAIN, ENTERED, REMOVE),
    S.MAINTENANCE: (REMOVE,),
}


@pytest.mark.parametrize("status", [each for each in HostStatus if each is not S.REMOVED])
def test_every_state_has_a_way_out(status: HostStatus) -> None:
    _walk(host(status), WAYS_OUT[status])


def test_and_a_host_on_which_starts_failed_has_one() -> None:
    _walk(host(S.UP, FAILING), (MAINTAIN, ENTERED, REMOVE))
    back = host(S.UP, FAILING).when(ActivateHost(id=HOST_ID)).follows().state(HOST, HOST_ID)
    assert back is not None
    assert back.status is S.UP


def _walk(history: Given, moves: tuple[Move, ...]) -> None:
    for move in moves:
        if isinstance(move, Command):
            history = history.when(move).follows()
        else:
            history = history.and_then((f"host/{HOST_ID}", move))
    state = history.state(HOST, HOST_ID)
    assert state is not None
    assert state.status is S.REMOVED


def test_the_page_on_hosts_has_every_state_and_what_is_allowed_in_it() -> None:
    """given docs/hosts.md, then its table says what the decisions say"""
    text = (Path(__file__).parents[3] / "docs" / "hosts.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_]+)` \|.*\| ([^|]*) \|$", text, flags=re.MULTILINE))
    assert rows.keys() == {str(status) for status in HostStatus} - {"removed"}
    for status, cell in rows.items():
        told = set(re.findall(r"`([a-z-]+)`", cell))
        wanted = {verb for verb, where in ALLOWED.items() if HostStatus(status) in where}
        assert told == wanted, status
