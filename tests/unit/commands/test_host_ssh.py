"""Ordering work on a host's machine over SSH, and what its steps make of the host's state."""

from __future__ import annotations

import pytest

from commands.cluster.update import UpdateCluster
from commands.host.add import AddHost
from commands.host.install import InstallHost
from commands.host.remove import RemoveHost
from commands.host.token import IssueEnrolmentToken
from commands.host.uninstall import UninstallHost
from commands.kernel.refusal import InvalidField, WrongState
from commands.kernel.testing import COMMAND, Given
from commands.state.cluster import CLUSTER as CLUSTER_FOLD
from commands.state.host import HOST, HostState, HostStatus
from events.types import host_ssh as ssh
from events.types.base import Event
from events.types.cluster_requirements import FirewallType
from events.types.host import HostAdded, HostStateConfirmed, HostStateUnconfirmed
from events.types.operation import OperationStarted
from tests.unit.commands.samples import (
    APPROVED,
    CLUSTER,
    HOST_ID,
    JOINED,
    ORDER,
    SESSION,
    SSH_FAILED,
    SSH_INSTALL,
    host,
    place,
)

S = HostStatus
KEY = "SHA256:" + "k" * 43
PINNED = ssh.HostSshKeyPinned(name="kvm01", order=ORDER, fingerprint=KEY, key_type="ssh-ed25519")
BEGUN = ssh.HostSshBegun(order=ORDER, worker="w1")
DONE = ssh.HostSshStep(name="kvm01", order=ORDER, step="connect", text="Logged in.", done=True)
INSTALLED = ssh.HostSshEnded(name="kvm01", order=ORDER, task=ssh.SshTask.INSTALL, succeeded=True)
UNINSTALL = ssh.HostSshOrdered(
    name="kvm01", order=ORDER, task=ssh.SshTask.UNINSTALL, address="192.0.2.7"
)
UNINSTALLED = ssh.HostSshEnded(
    name="kvm01", order=ORDER, task=ssh.SshTask.UNINSTALL, succeeded=True
)


def state_of(history: Given) -> HostState:
    state = history.state(HOST, HOST_ID)
    assert state is not None
    return state


def given_host(status: HostStatus, *more: Event) -> HostState:
    return state_of(host(status, *more))


def test_a_host_with_an_address_is_announced_and_installed_in_one() -> None:
    when = place().when(AddHost(name="kvm02", cluster=CLUSTER, address="kvm02.example.org"))
    assert when.event(HostAdded).approved
    ordered = when.event(ssh.HostSshOrdered)
    assert (ordered.task, ordered.order) == (ssh.SshTask.INSTALL, str(COMMAND))
    assert (ordered.address, ordered.port, ordered.user) == ("kvm02.example.org", 22, "root")
    assert ordered.password is None
    operation = when.event(OperationStarted)
    assert (operation.kind, operation.cancellable) == ("host.install", True)
    assert when.accepted.operation == str(COMMAND)


def test_an_installation_is_ordered_with_the_firewall_of_the_cluster() -> None:
    chosen = place().when(
        UpdateCluster(id=CLUSTER, firewall_type=FirewallType.NFTABLES),
        hosts_of=lambda _cluster: (),
    )
    added = chosen.follows().when(AddHost(name="kvm02", cluster=CLUSTER, address="192.0.2.8"))
    assert added.event(ssh.HostSshOrdered).firewall_type is FirewallType.NFTABLES
    again = added.follows().when(UpdateCluster(id=CLUSTER, description="x"), hosts_of=lambda _c: ())
    kept = host(S.MAINTENANCE, SSH_INSTALL, INSTALLED).when(
        UpdateCluster(id=CLUSTER, firewall_type=FirewallType.NONE), hosts_of=lambda _c: ()
    )
    ordered = kept.follows().when(InstallHost(id=HOST_ID)).event(ssh.HostSshOrdered)
    assert (ordered.firewall, ordered.firewall_type) == (True, FirewallType.NONE)
    state = again.follows().state(CLUSTER_FOLD, CLUSTER)
    assert state is not None
    assert state.firewall_type is FirewallType.NFTABLES


def test_without_an_address_there_is_nothing_to_log_in_to() -> None:
    place().when(AddHost(name="kvm02", cluster=CLUSTER, install=True)).refused(InvalidField)
    host(S.INSTALLING).when(InstallHost(id=HOST_ID)).refused(InvalidField)


def test_an_order_takes_the_login_that_is_known() -> None:
    elsewhere = ssh.HostSshOrdered(
        name="kvm01",
        order=ORDER,
        task=ssh.SshTask.INSTALL,
        address="192.0.2.9",
        port=2222,
        user="admin",
        password="vault/1",
    )
    history = host(S.INSTALLING, elsewhere, SSH_FAILED)
    ordered = history.when(InstallHost(id=HOST_ID)).event(ssh.HostSshOrdered)
    assert (ordered.address, ordered.port, ordered.user) == ("192.0.2.9", 2222, "admin")
    assert ordered.password is None


@pytest.mark.parametrize(
    "command",
    [
        InstallHost(id=HOST_ID),
        UninstallHost(id=HOST_ID),
        RemoveHost(id=HOST_ID),
        IssueEnrolmentToken(id=HOST_ID),
    ],
    ids=lambda command: type(command).__name__,
)
def test_one_thing_at_a_time(command: InstallHost) -> None:
    host(S.INSTALLING, SSH_INSTALL).when(command).refused(WrongState, "over SSH")


def test_a_host_is_installing_until_its_agent_is_heard_and_all_is_done() -> None:
    events = (SSH_INSTALL, BEGUN, PINNED, DONE, JOINED, APPROVED, SESSION)
    for count in range(1, len(events) + 1):
        assert given_host(S.INSTALLING, *events[:count]).status is S.INSTALLING
    state = given_host(S.INSTALLING, *events, INSTALLED)
    assert state.status is S.UP
    assert state.address == "192.0.2.7"
    assert state.ssh.installed


def test_a_failed_installation_leaves_no_identity_behind() -> None:
    state = given_host(S.INSTALLING, SSH_INSTALL, JOINED, APPROVED, SESSION, SSH_FAILED)
    assert state.status is S.INSTALL_FAILED
    assert (state.identity, state.certificate, state.session) == (None, None, None)
    assert not state.ssh.installed


def test_a_failed_update_leaves_the_host_what_it_was() -> None:
    state = given_host(S.MAINTENANCE, SSH_INSTALL, SSH_FAILED)
    assert state.status is S.INSTALL_FAILED
    assert state.identity is not None
    again = given_host(S.MAINTENANCE, SSH_INSTALL, SSH_FAILED, SSH_INSTALL, INSTALLED)
    assert again.status is S.MAINTENANCE


def test_a_host_that_was_uninstalled_can_be_installed_again() -> None:
    state = given_host(S.MAINTENANCE, SSH_INSTALL, INSTALLED, UNINSTALL, UNINSTALLED)
    assert state.status is S.INSTALLING
    assert state.identity is None
    assert not state.ssh.installed


def test_the_password_is_referred_to_only_while_the_order_is_open() -> None:
    ordered = ssh.HostSshOrdered(
        name="kvm01",
        order=ORDER,
        task=ssh.SshTask.INSTALL,
        address="192.0.2.7",
        password="vault/1",
    )
    open_order = given_host(S.INSTALLING, ordered, DONE)
    assert open_order.ssh.order is not None
    assert open_order.ssh.order.password == "vault/1"
    over = given_host(S.INSTALLING, ordered, DONE, SSH_FAILED)
    assert "vault/1" not in repr(over)


def test_the_pinned_key_outlives_everything_but_another_address_of_a_machine_unknown() -> None:
    def pinned(*events: Event, status: HostStatus = S.INSTALLING) -> str:
        access = given_host(status, *events).ssh.access
        assert access is not None
        return access.fingerprint

    moved = ssh.HostSshOrdered(
        name="kvm01", order=ORDER, task=ssh.SshTask.INSTALL, address="192.0.2.8"
    )
    assert pinned(SSH_INSTALL, PINNED, SSH_FAILED, SSH_INSTALL) == KEY
    assert pinned(SSH_INSTALL, PINNED, SSH_FAILED, moved) == ""
    assert pinned(SSH_INSTALL, PINNED, INSTALLED, moved, status=S.MAINTENANCE) == KEY


def test_an_event_of_an_older_order_changes_nothing() -> None:
    late = ssh.HostSshStep(name="kvm01", order="older", step="join", text="", done=True)
    state = given_host(S.INSTALLING, SSH_INSTALL, late)
    assert state.ssh.order is not None
    assert state.ssh.order.done == ()


def test_a_restart_of_the_agent_changes_no_status() -> None:
    restart = ssh.HostSshOrdered(name="kvm01", order="r1", task=ssh.SshTask.RESTART_AGENT)
    state = given_host(S.NON_RESPONSIVE, restart)
    assert state.status is S.NON_RESPONSIVE
    ended = ssh.HostSshEnded(
        name="kvm01", order="r1", task=ssh.SshTask.RESTART_AGENT, succeeded=False, reason="x"
    )
    assert given_host(S.NON_RESPONSIVE, restart, ended).status is S.NON_RESPONSIVE


def test_what_was_under_way_in_a_backup_is_nobodys_after_its_restore() -> None:
    """given a restore, then no machine is worked on because of what was ordered before"""
    unconfirmed = HostStateUnconfirmed(name="kvm01", incarnations_from=100)
    state = given_host(S.INSTALLING, SSH_INSTALL, JOINED, APPROVED, unconfirmed)
    assert state.ssh.order is None
    assert state.status is S.NON_RESPONSIVE
    assert state.mute
    assert given_host(S.INSTALLING, SSH_INSTALL, unconfirmed).status is S.INSTALL_FAILED
    returned = given_host(S.INSTALLING, SSH_INSTALL, JOINED, APPROVED, unconfirmed, SESSION)
    assert not returned.ssh.install_failed


def test_an_agent_is_not_taken_from_under_vms() -> None:
    """given a host that was vouched for after a restore, then it may have been in service"""
    unconfirmed = HostStateUnconfirmed(name="kvm01", incarnations_from=100)
    vouched = HostStateConfirmed(name="kvm01", reported=False)
    history = host(S.INSTALLING, SSH_INSTALL, JOINED, APPROVED, unconfirmed, vouched)
    assert state_of(history).status is S.INSTALL_FAILED
    history.when(UninstallHost(id=HOST_ID)).refused(WrongState)
    assert history.when(InstallHost(id=HOST_ID)).events
