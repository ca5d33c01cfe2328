"""The power of hosts: proxies that answer orders, and a gateway that confirms silences.

What they say follows from the states alone. `machines` are on or off as the orders make them.
"""

from __future__ import annotations

from collections.abc import Collection

from commands.state.host import HostState
from events.types.base import Event
from events.types.host_power import (
    FenceAction,
    FenceAgent,
    FenceOrder,
    HostFenceAgentSet,
    HostPowerConfigured,
    HostSilenceConfirmed,
    PowerState,
    ProxyScope,
)
from events.wire.agent import FenceItem
from tests.unit.policies.stage import Stage

FENCE = "fence"
"""What makes proxies fail, among the kinds of jobs that hosts fail at."""
KIND = "ipmilan"
BMC = FenceAgent(name="bmc", type=KIND, address="192.0.2.100", username="admin", password="vault/x")
_WANTED = {FenceAction.OFF: PowerState.OFF, FenceAction.ON: PowerState.ON}


def managed(name: str, *agents: FenceAgent, kdump: bool = False) -> tuple[Event, ...]:
    """Return the events that give a host power management, by default with one BMC."""
    both = (ProxyScope.CLUSTER, ProxyScope.DATA_CENTER)
    return (
        *(HostFenceAgentSet(name=name, agent=agent) for agent in agents or (BMC,)),
        HostPowerConfigured(name=name, enabled=True, kdump_detection=kdump, proxies=both),
    )


async def manage(stage: Stage, host: str, *agents: FenceAgent, kdump: bool = False) -> None:
    """Give a host power management."""
    name = (await stage.host(host)).name
    await stage.append(f"host/{host}", *managed(name, *agents, kdump=kdump))


def confirmation(host: HostState, stage: Stage) -> Event | None:
    """Return what the gateway says of a host whose silence is in question."""
    if not host.silent or host.power.questioned <= host.power.confirmed:
        return None
    return HostSilenceConfirmed(name=host.name, last_contact=stage.now, timeout_s=60)


def answer(order: FenceOrder, failing: Collection[str] = ()) -> FenceItem:
    """Return what a proxy says to an order."""
    if FENCE in failing:
        return FenceItem(
            order=order.id, host=order.host, state=PowerState.UNKNOWN, reason="bmc says unknown."
        )
    state = _WANTED.get(order.action, PowerState.ON)
    return FenceItem(order=order.id, host=order.host, state=state)


def boot_of(host: HostState) -> str | None:
    """Return the boot in which a machine is, as the orders made it; None where it is off."""
    boot = host.boot
    for each in host.power.tries:
        if each.outdated or not each.reached:
            continue
        if each.order.action is FenceAction.OFF:
            boot = None
        elif each.order.action is FenceAction.ON:
            boot = boot or f"boot {each.position} of {host.name}"
    return boot


async def open_orders(stage: Stage, proxy: str) -> list[FenceOrder]:
    """Return what a host is to do with the power of others."""
    view = await stage.view()
    return [each.order for each in view.fences(proxy)]
