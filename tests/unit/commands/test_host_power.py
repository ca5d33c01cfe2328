"""Commands about a host's power, and about the fencing of a cluster's hosts."""

from __future__ import annotations

import pytest

from commands.cluster.fencing import SetClusterFencing
from commands.host.add_fence_agent import AddFenceAgent
from commands.host.configure_power import ConfigurePower
from commands.host.power_restart import PowerRestart
from commands.host.power_start import PowerStart
from commands.host.power_status import AskPowerStatus
from commands.host.power_stop import PowerStop
from commands.host.power_test import TestPower as TryPower
from commands.host.power_test_off import TestPowerOff as TryPowerOff
from commands.host.remove_fence_agent import RemoveFenceAgent
from commands.host.update_fence_agent import UpdateFenceAgent
from commands.kernel.command import Command
from commands.kernel.refusal import InvalidField, NotFound, WrongState
from commands.kernel.testing import Given, given
from commands.state.host import HostStatus
from events.codec import CODEC
from events.types.host_power import (
    ClusterFencingSet,
    FenceAgent,
    FenceOption,
    FencingPolicy,
    HostFenceAgentRemoved,
    HostFenceAgentSet,
    HostPowerConfigured,
    ProxyScope,
)
from events.types.operation import OperationStarted
from tests.unit.commands.samples import CLUSTER, host, place
from tests.unit.commands.samples import HOST_ID as HOST

BMC = FenceAgent(
    name="bmc",
    type="ipmilan",
    address="192.0.2.9",
    port=623,
    username="admin",
    password="vault/1",
    options=(FenceOption(name="lanplus", value="1"), FenceOption(name="cipher", value="3")),
)
BOTH = (ProxyScope.CLUSTER, ProxyScope.DATA_CENTER)


def managed(state: Given) -> Given:
    """Give the host power management."""
    return state.and_then(
        (f"host/{HOST}", HostFenceAgentSet(name="kvm01", agent=BMC)),
        (
            f"host/{HOST}",
            HostPowerConfigured(name="kvm01", enabled=True, kdump_detection=False, proxies=BOTH),
        ),
    )


def add(**more: object) -> AddFenceAgent:
    fields: dict[str, object] = {
        "id": HOST,
        "agent": "bmc",
        "type": "ipmilan",
        "address": "192.0.2.9",
        "port": 623,
        "username": "admin",
        "password": "vault/1",
        "options": "lanplus=1, cipher=3",
        **more,
    }
    return AddFenceAgent(**fields)  # type: ignore[arg-type]


def test_a_fence_agent_is_added_once_by_its_name() -> None:
    host().when(add()).then(HostFenceAgentSet(name="kvm01", agent=BMC))
    managed(host()).when(add()).refused(WrongState, "already", "update-agent")
    managed(host()).when(add(agent="second")).event(HostFenceAgentSet)
    given().when(add()).refused(NotFound)


@pytest.mark.parametrize(
    "options",
    [
        *("password=x", "passwd_script=/tmp/x", "action=off", "ip=1", "login=x", "debug=/tmp/x"),
        *("verbose", "ipmitool_path=/tmp/x", "a b=1", "=1", "lanplus=1,lanplus=0"),
    ],
)
def test_options_that_would_do_harm_are_refused(options: str) -> None:
    host().when(add(options=options)).refused(InvalidField)


def test_a_bare_option_means_one() -> None:
    when = host().when(add(options="lanplus"))
    assert when.event(HostFenceAgentSet).agent.options == (FenceOption(name="lanplus", value="1"),)


def test_a_fence_agent_is_changed_in_what_is_given_and_keeps_its_password() -> None:
    when = managed(host()).when(UpdateFenceAgent(id=HOST, agent="bmc", order=2))
    changed = when.event(HostFenceAgentSet).agent
    assert (changed.order, changed.password, changed.address) == (2, "vault/1", "192.0.2.9")
    when = managed(host()).when(
        UpdateFenceAgent(id=HOST, agent="bmc", port=None, password="vault/2")
    )
    changed = when.event(HostFenceAgentSet).agent
    assert (changed.port, changed.password) == (None, "vault/2")
    same = UpdateFenceAgent(id=HOST, agent="bmc", type="ipmilan")
    managed(host()).when(same).then_nothing()
    managed(host()).when(UpdateFenceAgent(id=HOST, agent="x")).refused(InvalidField, "bmc")


def test_a_fence_agent_is_removed() -> None:
    removed = HostFenceAgentRemoved(name="kvm01", agent="bmc")
    command = RemoveFenceAgent(id=HOST, agent="bmc")
    after = managed(host()).when(command)
    after.then(removed)
    after.follows().when(command).refused(InvalidField, "none")


def test_power_management_is_configured_in_what_is_given() -> None:
    first = host().when(ConfigurePower(id=HOST, enabled=True))
    first.then(HostPowerConfigured(name="kvm01", enabled=True, kdump_detection=False, proxies=BOTH))
    second = first.follows().when(
        ConfigurePower(id=HOST, kdump_detection=True, proxies=(ProxyScope.CLUSTER,))
    )
    second.then(
        HostPowerConfigured(
            name="kvm01", enabled=True, kdump_detection=True, proxies=(ProxyScope.CLUSTER,)
        )
    )
    second.follows().when(ConfigurePower(id=HOST, enabled=True)).then_nothing()
    twice = ConfigurePower(id=HOST, proxies=(ProxyScope.CLUSTER, ProxyScope.CLUSTER))
    host().when(twice).refused(InvalidField)


@pytest.mark.parametrize(
    "command", [AskPowerStatus, TryPower, TryPowerOff, PowerStart, PowerStop, PowerRestart]
)
def test_power_that_is_not_managed_cannot_be_switched(command: type[Command]) -> None:
    asked = command(id=HOST)
    host(HostStatus.MAINTENANCE).when(asked).refused(WrongState, "no fence agent")
    disabled = managed(host(HostStatus.MAINTENANCE)).and_then(
        (
            f"host/{HOST}",
            HostPowerConfigured(name="kvm01", enabled=False, kdump_detection=False, proxies=BOTH),
        )
    )
    disabled.when(asked).refused(WrongState, "disabled")
    begun = managed(host(HostStatus.MAINTENANCE)).when(asked).event(OperationStarted)
    assert begun.cancellable


@pytest.mark.parametrize("command", [TryPowerOff, PowerStop, PowerRestart])
def test_a_host_in_service_is_not_turned_off(command: type[Command]) -> None:
    asked = command(id=HOST)
    managed(host()).when(asked).refused(WrongState, "maintenance")


def test_only_a_host_that_may_be_off_is_turned_on() -> None:
    asked = PowerStart(id=HOST)
    for heard in (HostStatus.UP, HostStatus.NON_OPERATIONAL, HostStatus.PREPARING_FOR_MAINTENANCE):
        managed(host(heard)).when(asked).refused(WrongState, "it is on", "host power restart")
    for status in (HostStatus.MAINTENANCE, HostStatus.NON_RESPONSIVE):
        managed(host(status)).when(asked).event(OperationStarted)


def test_a_clusters_fencing_is_set_in_what_is_given() -> None:
    first = place().when(SetClusterFencing(id=CLUSTER, enabled=False))
    first.then(ClusterFencingSet(name="Default", fencing=FencingPolicy(enabled=False)))
    second = first.follows().when(
        SetClusterFencing(
            id=CLUSTER, skip_if_connectivity_broken=True, connectivity_broken_percent=30
        )
    )
    wanted = FencingPolicy(
        enabled=False, skip_if_connectivity_broken=True, connectivity_broken_percent=30
    )
    second.then(ClusterFencingSet(name="Default", fencing=wanted))
    second.follows().when(SetClusterFencing(id=CLUSTER, enabled=False)).then_nothing()


def test_leases_on_storage_cannot_be_asked_for_while_there_are_none() -> None:
    lease = SetClusterFencing(id=CLUSTER, enabled=False, skip_if_storage_lease_live=True)
    place().when(lease).refused(InvalidField, "no storage domains", "skip_if_connectivity_broken")
    # a log from before has it: it is read, and can be taken back
    before = FencingPolicy(skip_if_storage_lease_live=True)
    old = place().and_then((f"cluster/{CLUSTER}", ClusterFencingSet(name="x", fencing=before)))
    old.when(SetClusterFencing(id=CLUSTER, skip_if_storage_lease_live=False)).then(
        ClusterFencingSet(name="Default", fencing=FencingPolicy())
    )
    payload = CODEC.encode(ClusterFencingSet(name="Default", fencing=before))
    decoded = CODEC.decode_payload(*payload)
    assert isinstance(decoded, ClusterFencingSet)
    assert decoded.fencing == before
