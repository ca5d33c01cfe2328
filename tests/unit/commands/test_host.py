"""What the verbs of hosts decide, and in which states they are refused."""

from __future__ import annotations

import pytest

from commands.host.activate import ActivateHost
from commands.host.add import AddHost
from commands.host.approve import ApproveHost
from commands.host.confirm_off import ConfirmHostOff
from commands.host.force_remove import ForceRemoveHost
from commands.host.install import InstallHost
from commands.host.maintenance import MaintainHost
from commands.host.refresh import RefreshHost
from commands.host.remove import RemoveHost
from commands.host.token import IssueEnrolmentToken
from commands.host.uninstall import UninstallHost
from commands.kernel.command import Command
from commands.kernel.refusal import InvalidField, NotFound, WrongState
from commands.kernel.testing import COMMAND, fresh, given
from commands.state.host import HOST, HostStatus
from events.types import host as h
from events.types.operation import OperationStarted
from tests.unit.commands.samples import (
    APPROVED,
    CLUSTER,
    DATA_CENTER,
    HOST_ID,
    NOBODY,
    RESTING,
    SESSION,
    host,
    later,
    place,
)

S = HostStatus
COMMANDS: dict[str, Command] = {
    "activate": ActivateHost(id=HOST_ID),
    "approve": ApproveHost(id=HOST_ID),
    "confirm-off": ConfirmHostOff(id=HOST_ID, name="kvm01"),
    "force-remove": ForceRemoveHost(id=HOST_ID, name="kvm01"),
    "install": InstallHost(id=HOST_ID, address="192.0.2.7"),
    "maintenance": MaintainHost(id=HOST_ID),
    "refresh": RefreshHost(id=HOST_ID),
    "remove": RemoveHost(id=HOST_ID),
    "token": IssueEnrolmentToken(id=HOST_ID),
    "uninstall": UninstallHost(id=HOST_ID, address="192.0.2.7"),
}
ALLOWED: dict[str, frozenset[HostStatus]] = {
    "activate": frozenset({S.PREPARING_FOR_MAINTENANCE, S.MAINTENANCE}),
    "approve": frozenset({S.INSTALLING, S.INSTALL_FAILED, S.PENDING_APPROVAL, S.ERROR}),
    "confirm-off": frozenset({S.NON_RESPONSIVE, S.KDUMPING, S.DOWN, S.UNASSIGNED, S.ERROR}),
    "force-remove": frozenset(
        {
            *(S.INSTALLING, S.INSTALL_FAILED, S.PENDING_APPROVAL, S.UNASSIGNED),
            *(S.DOWN, S.REBOOT),
        }
    ),
    "install": frozenset({S.INSTALLING, S.INSTALL_FAILED, S.PENDING_APPROVAL, S.MAINTENANCE}),
    "maintenance": frozenset(
        {
            *(S.UP, S.UNASSIGNED, S.NON_RESPONSIVE, S.NON_OPERATIONAL),
            *(S.KDUMPING, S.DOWN, S.REBOOT),
        }
    ),
    "refresh": frozenset({S.UP, S.NON_OPERATIONAL, S.MAINTENANCE}),
    "remove": frozenset(
        {
            *(S.INSTALLING, S.INSTALL_FAILED, S.PENDING_APPROVAL, S.UNASSIGNED),
            *(S.MAINTENANCE, S.DOWN),
        }
    ),
    "token": frozenset(
        {S.INSTALLING, S.INSTALL_FAILED, S.PENDING_APPROVAL, S.MAINTENANCE, S.ERROR}
    ),
    "uninstall": frozenset({S.INSTALLING, S.INSTALL_FAILED, S.PENDING_APPROVAL, S.MAINTENANCE}),
}
MATRIX = [(verb, status) for verb in COMMANDS for status in HostStatus]


@pytest.mark.parametrize(("verb", "status"), MATRIX)
def test_a_verb_is_allowed_in_its_states_only(verb: str, status: HostStatus) -> None:
    when = host(status).when(COMMANDS[verb])
    if status is S.REMOVED:
        when.refused(NotFound, HOST_ID)
    elif status in ALLOWED[verb]:
        assert when.events
    else:
        assert when.refused(WrongState, "kvm01").remedy


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_host_that_never_was_is_not_found(verb: str) -> None:
    given().when(COMMANDS[verb]).refused(NotFound, HOST_ID)


def test_a_host_is_announced_in_its_cluster() -> None:
    command = AddHost(
        name="kvm02", cluster=CLUSTER, address="10.0.0.2", approved=True, install=False
    )
    when = place().when(command)
    decision = when.then(
        h.HostAdded(
            name="kvm02",
            cluster=CLUSTER,
            data_center=DATA_CENTER,
            address="10.0.0.2",
            approved=True,
        )
    )
    assert decision.id == fresh()
    place().when(AddHost(name="kvm02", cluster=NOBODY)).refused(NotFound, "cluster")


def test_a_token_keeps_the_hash_of_its_secret_and_ends() -> None:
    when = host(S.INSTALLING).when(IssueEnrolmentToken(id=HOST_ID, valid_s=600))
    decision = when.then(
        h.HostEnrolmentTokenIssued(
            token=fresh(), secret_sha256=f"hash of {fresh()}", expires=later(600)
        )
    )
    assert decision.extra == {"token_id": fresh(), "expires": later(600)}


def test_a_newer_token_takes_the_place_of_the_older() -> None:
    first = host(S.INSTALLING).when(IssueEnrolmentToken(id=HOST_ID)).follows()
    second = first.when(IssueEnrolmentToken(id=HOST_ID), ids=("newer",)).follows()
    state = second.state(HOST, HOST_ID)
    assert state is not None
    assert state.token is not None
    assert state.token.id == "newer"


def test_maintenance_closes_the_host_and_waits_in_an_operation() -> None:
    when = host().when(MaintainHost(id=HOST_ID, reason="new memory"))
    assert when.event(h.HostMaintenanceRequested).reason == "new memory"
    operation = when.event(OperationStarted)
    assert (operation.kind, operation.target) == ("host.maintenance", f"host/{HOST_ID}")
    assert operation.cancellable
    assert when.accepted.operation == str(COMMAND)


def test_a_host_is_open_again_after_maintenance() -> None:
    state = host(S.MAINTENANCE).when(ActivateHost(id=HOST_ID)).follows().state(HOST, HOST_ID)
    assert state is not None
    assert state.status is S.UP


def test_a_host_in_maintenance_that_falls_silent_stays_in_maintenance() -> None:
    silent = h.HostSilent(name="kvm01", last_contact=later(0), timeout_s=60)
    state = host(S.UP, h.HostMaintenanceRequested(name="kvm01"), RESTING, silent).state(
        HOST, HOST_ID
    )
    assert state is not None
    assert state.status is S.MAINTENANCE


def test_the_name_of_a_host_that_is_off_is_typed_out() -> None:
    host(S.NON_RESPONSIVE).when(ConfirmHostOff(id=HOST_ID, name="kvm01")).then(
        h.HostConfirmedOff(name="kvm01")
    )
    refusal = (
        host(S.NON_RESPONSIVE)
        .when(ConfirmHostOff(id=HOST_ID, name="kvm02"))
        .refused(InvalidField, "kvm01", "kvm02")
    )
    assert refusal.extra["field"] == "name"


def test_a_host_that_answers_is_not_off_whatever_is_typed() -> None:
    host(S.UP).when(ConfirmHostOff(id=HOST_ID, name="kvm01")).refused(WrongState, "answers")


def test_approval_lets_a_host_with_two_machines_in_again_and_forgets_its_boots() -> None:
    twice = host(S.ERROR).when(ApproveHost(id=HOST_ID)).then(APPROVED)
    assert twice.id == HOST_ID
    state = host(S.ERROR).when(ApproveHost(id=HOST_ID)).follows().state(HOST, HOST_ID)
    assert state is not None
    assert not state.duplicate
    assert state.former_boots == ()


OFF = h.HostConfirmedOff(name="kvm01")


def test_force_removes_no_host_whose_vms_may_run() -> None:
    force = ForceRemoveHost(id=HOST_ID, name="kvm01")
    host(S.NON_RESPONSIVE).when(force).refused(WrongState, "confirm-off")
    gone = h.HostRemoved(name="kvm01", cluster=CLUSTER, forced=True)
    host(S.NON_RESPONSIVE, OFF).when(force).then(gone)
    host(S.ERROR, OFF).when(force).then(gone)
    host(S.NON_RESPONSIVE, OFF, SESSION).when(force).refused(WrongState, "confirm-off")
    preparing = h.HostMaintenanceRequested(name="kvm01")
    host(S.UP, preparing, OFF).when(force).refused(WrongState, "activate")


def test_the_name_of_a_host_that_is_given_up_is_typed_out() -> None:
    wrong = ForceRemoveHost(id=HOST_ID, name="kvm02")
    refusal = host(S.INSTALLING).when(wrong).refused(InvalidField, "kvm01", "kvm02")
    assert refusal.extra["field"] == "name"


def test_a_removed_host_is_not_found_and_leaves_a_tombstone() -> None:
    removed = host(S.NON_RESPONSIVE, OFF).when(ForceRemoveHost(id=HOST_ID, name="kvm01"))
    after = removed.follows()
    state = after.state(HOST, HOST_ID)
    assert state is not None
    assert (state.status, state.name) == (S.REMOVED, "kvm01")
    after.when(ConfirmHostOff(id=HOST_ID, name="kvm01")).refused(NotFound, HOST_ID)


def test_a_new_session_ends_the_silence() -> None:
    state = host(S.NON_RESPONSIVE, SESSION).state(HOST, HOST_ID)
    assert state is not None
    assert state.status is S.UP
