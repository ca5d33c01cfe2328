"""A host's states: which actions oVirt refuses in which, and that each state has a way out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from commands.host import power_test_off
from commands.host.activate import ActivateHost
from commands.host.approve import ApproveHost
from commands.host.confirm_off import ConfirmHostOff
from commands.host.force_remove import ForceRemoveHost
from commands.host.maintenance import MaintainHost
from commands.host.power_restart import PowerRestart
from commands.host.power_start import PowerStart
from commands.host.power_stop import PowerStop
from commands.host.remove import RemoveHost
from commands.kernel.command import Command
from commands.kernel.refusal import NotFound, WrongState
from commands.kernel.testing import Given
from commands.state.host import HOST, HostStatus
from events.types import host as h
from events.types import host_power as p
from events.types.base import Event
from events.types.host_boot import HostBootOverdue
from events.types.host_failing import HostFailing
from tests.unit.commands.samples import DUMPS, FENCED_OFF, FENCED_ON, HOST_ID, SILENT, host, later
from tests.unit.commands.test_host import ALLOWED, COMMANDS, OFF

S = HostStatus
ENTERED = h.HostMaintenanceEntered(name="kvm01")
AGAIN = h.HostSessionStarted(name="kvm01", session="s2", boot="b2", protocol=1)
OVERDUE = HostBootOverdue(name="kvm01", turned_on_at=later(0), timeout_s=600)
FAILING = HostFailing(name="kvm01", vms=("1", "2", "3"), told="a, b, c")
MAINTAIN, REMOVE = MaintainHost(id=HOST_ID), RemoveHost(id=HOST_ID)
CONFIRM = ConfirmHostOff(id=HOST_ID, name="kvm01")
FORCE = ForceRemoveHost(id=HOST_ID, name="kvm01")
Move = Command | Event

POWER: dict[str, frozenset[HostStatus]] = {
    "power-start": frozenset(S) - {S.REMOVED, S.UP, S.NON_OPERATIONAL, S.PREPARING_FOR_MAINTENANCE},
    "power-stop": frozenset({S.MAINTENANCE, S.NON_RESPONSIVE, S.KDUMPING, S.DOWN, S.REBOOT}),
    "power-restart": frozenset({S.MAINTENANCE, S.NON_RESPONSIVE, S.KDUMPING, S.DOWN, S.REBOOT}),
    "power-test-off": frozenset({S.MAINTENANCE}),
}
"""In which states the verbs of power management are allowed, where a host has it."""
POWER_COMMANDS: dict[str, Command] = {
    "power-start": PowerStart(id=HOST_ID),
    "power-stop": PowerStop(id=HOST_ID),
    "power-restart": PowerRestart(id=HOST_ID),
    "power-test-off": power_test_off.TestPowerOff(id=HOST_ID),
}
MANAGED: tuple[Event, ...] = (
    p.HostFenceAgentSet(
        name="kvm01", agent=p.FenceAgent(name="bmc", type="ipmilan", address="192.0.2.9")
    ),
    p.HostPowerConfigured(
        name="kvm01", enabled=True, kdump_detection=True, proxies=(p.ProxyScope.CLUSTER,)
    ),
)
SWITCHED = ("power-start", "power-stop")
"""oVirt lets a host be restarted in any state; so we do not look for that in its matrix."""
_NOT_WHILE_IT_BOOTS = frozenset(
    {"activate", "approve", "confirm-off", "maintenance", "refresh", "remove"}
)

OVIRT_REFUSES: dict[HostStatus, frozenset[str]] = {
    S.MAINTENANCE: frozenset({"approve", "confirm-off", "maintenance"}),
    S.UP: frozenset({"activate", "approve", "confirm-off", "remove", *SWITCHED}),
    S.ERROR: frozenset({"approve", "confirm-off", "refresh", "remove"}),
    S.INSTALLING: frozenset(
        {"activate", "approve", "confirm-off", "maintenance", "refresh", *SWITCHED}
    ),
    S.NON_RESPONSIVE: frozenset({"activate", "approve", "refresh", "remove"}),
    S.PREPARING_FOR_MAINTENANCE: frozenset(
        {"approve", "confirm-off", "maintenance", "refresh", "remove"}
    ),
    S.UNASSIGNED: frozenset({"activate", "approve", "confirm-off", "refresh", "remove"}),
    S.NON_OPERATIONAL: frozenset({"approve", "remove"}),
    S.PENDING_APPROVAL: frozenset({"activate", "confirm-off", "maintenance", "refresh"}),
    S.INSTALL_FAILED: frozenset({"approve", "refresh"}),
    S.DOWN: frozenset({"activate", "approve", "refresh"}),
    S.REBOOT: _NOT_WHILE_IT_BOOTS,
    S.KDUMPING: _NOT_WHILE_IT_BOOTS,
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
    (S.INSTALLING, "power-start"): "a machine may have to be turned on before it can join",
    (S.KDUMPING, "confirm-off"): "messages of a dump prove nothing, and must not hold VMs up",
    (S.KDUMPING, "maintenance"): "it takes no VMs then, whenever it is back",
    (S.REBOOT, "maintenance"): "it takes no VMs then, once it is back",
}
"""What is allowed all the same, and why."""


@pytest.mark.parametrize("status", list(OVIRT_REFUSES))
def test_what_ovirt_refuses_in_a_state_is_refused_but_for_reasons(status: HostStatus) -> None:
    ours = ALLOWED | POWER
    allowed = {verb for verb in OVIRT_REFUSES[status] if status in ours[verb]}
    assert allowed == {verb for where, verb in OTHERWISE if where is status}


@pytest.mark.parametrize("verb", POWER)
@pytest.mark.parametrize("status", list(HostStatus))
def test_power_is_switched_in_some_states_only(verb: str, status: HostStatus) -> None:
    when = host(status, *MANAGED).when(POWER_COMMANDS[verb])
    if status is S.REMOVED:
        when.refused(NotFound, HOST_ID)
    elif status in POWER[verb]:
        assert when.events
    else:
        assert when.refused(WrongState, "kvm01").remedy


@pytest.mark.parametrize(("proof", "status"), [((FENCED_OFF,), S.DOWN), ((OFF,), S.DOWN)])
@pytest.mark.parametrize("before", [S.MAINTENANCE, S.NON_RESPONSIVE, S.KDUMPING])
def test_a_host_that_is_known_to_be_off_is_down_and_reboots_once_it_was_turned_on(
    before: HostStatus, proof: tuple[Event, ...], status: HostStatus
) -> None:
    """given a proof, then down; turned on, reboot; and what it was before once it says hello"""
    back = S.MAINTENANCE if before is S.MAINTENANCE else S.UP
    assert _status(before, *proof) is status
    assert _status(before, *proof, FENCED_ON) is S.REBOOT
    assert _status(before, *proof, FENCED_ON, AGAIN) is back
    assert _status(before, *proof, AGAIN) is back
    assert _status(before, *proof, FENCED_ON, FENCED_OFF) is S.DOWN
    overdue = S.MAINTENANCE if before is S.MAINTENANCE else S.NON_RESPONSIVE
    assert _status(before, *proof, FENCED_ON, OVERDUE) is overdue
    assert _status(before, *proof, FENCED_ON, OVERDUE, FENCED_ON) is S.REBOOT
    assert _status(before, *proof, FENCED_ON, OVERDUE, OFF) is S.DOWN
    assert _status(before, *proof, FENCED_ON, OVERDUE, AGAIN) is back


def test_a_host_that_was_turned_on_and_never_proved_off_is_not_known_to_boot() -> None:
    assert _status(S.NON_RESPONSIVE, FENCED_ON) is S.NON_RESPONSIVE
    assert _status(S.UP, FENCED_ON) is S.UP


def test_a_host_that_was_activated_while_it_is_off_takes_no_vms_before_it_is_heard() -> None:
    off = host(S.MAINTENANCE, FENCED_OFF).when(ActivateHost(id=HOST_ID)).follows()
    state = off.state(HOST, HOST_ID)
    assert state is not None
    assert state.status is S.DOWN
    assert _status(S.MAINTENANCE, FENCED_OFF, h.HostActivated(name="kvm01"), AGAIN) is S.UP


@pytest.mark.parametrize("verb", ["activate", "install", "remove", "token", "uninstall"])
@pytest.mark.parametrize("more", [(FENCED_OFF,), (FENCED_OFF, FENCED_ON)])
def test_what_maintenance_allows_it_allows_too_while_the_machine_is_off(
    verb: str, more: tuple[Event, ...]
) -> None:
    assert host(S.MAINTENANCE, *more).when(COMMANDS[verb]).events


def test_a_dump_ends_with_its_messages_and_is_no_word_of_a_host_in_maintenance() -> None:
    assert _status(S.KDUMPING, p.HostKdumpEnded(name="kvm01")) is S.NON_RESPONSIVE
    assert _status(S.KDUMPING, AGAIN) is S.UP
    assert _status(S.MAINTENANCE, SILENT, DUMPS) is S.MAINTENANCE


def test_what_a_restored_log_proves_of_a_machine_is_outdated() -> None:
    """given a proof from before a backup, then what became of the machine since is not known"""
    lost = h.HostStateUnconfirmed(name="kvm01", incarnations_from=1_000)
    vouched = h.HostStateConfirmed(name="kvm01", reported=False)
    assert _status(S.DOWN, lost) is S.NON_RESPONSIVE
    assert _status(S.DOWN, lost, vouched) is S.NON_RESPONSIVE
    assert _status(S.DOWN, lost, OFF) is S.DOWN


@pytest.mark.parametrize("status", [S.NON_RESPONSIVE, S.KDUMPING, S.DOWN, S.REBOOT])
def test_a_host_that_is_not_heard_is_mute_whatever_else_is_known(status: HostStatus) -> None:
    state = host(status).state(HOST, HOST_ID)
    assert state is not None
    assert state.mute
    assert state.known_off is (status in {S.DOWN, S.REBOOT})


def _status(before: HostStatus, *more: Event) -> HostStatus:
    state = host(before, *more).state(HOST, HOST_ID)
    assert state is not None
    return state.status


WAYS_OUT: dict[HostStatus, tuple[Move, ...]] = {
    S.INSTALLING: (REMOVE,),
    S.INSTALL_FAILED: (REMOVE,),
    S.PENDING_APPROVAL: (REMOVE,),
    S.UNASSIGNED: (REMOVE,),
    S.UP: (MAINTAIN, ENTERED, REMOVE),
    S.NON_RESPONSIVE: (CONFIRM, FORCE),
    S.KDUMPING: (CONFIRM, FORCE),
    S.DOWN: (REMOVE,),
    S.REBOOT: (FORCE,),
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
