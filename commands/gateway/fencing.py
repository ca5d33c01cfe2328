"""Fencing as the gateway sees it: orders on their way to proxies, and what comes back.

An order goes out fresh or not at all: an engine that stood still must not have a host turned off
that came back meanwhile. Its passwords are put in at the last moment.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict

import msgspec

from access.vault import SecretForgotten, Vault
from commands.kernel.command import Decision, on
from commands.kernel.fold import World
from commands.state.host import HOST, HostState
from commands.state.host_power import FenceTry
from events.types.host_power import FenceAgent, FenceOrder, HostFenceAnswered
from events.wire.agent import FenceItem, Intent

FRESH_S = 30.0
"""An order that could not be handed out for so long is not handed out any more."""
FRESH_S_MIN = 5.0


class Fences:
    """The open orders of each proxy: an index over the hosts' states."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, FenceTry]] = defaultdict(dict)

    def take(self, before: HostState | None, after: HostState) -> dict[str, set[str]]:
        """Take up a host's change; return, for each proxy with a change, the orders withdrawn."""
        was = _open(before) if before is not None else {}
        now = {} if after.removed else _open(after)
        changed: dict[str, set[str]] = defaultdict(set)
        for key, each in was.items():
            if key not in now:
                self._of[each.proxy].pop(key, None)
                changed[each.proxy].add(key)
        for key, each in now.items():
            if key not in was:
                self._of[each.proxy][key] = each
                changed.setdefault(each.proxy, set())
        return changed

    def orders(self, proxy: str, after: int = 0) -> tuple[FenceTry, ...]:
        """Return the open orders of a proxy that were given after a position."""
        return tuple(each for each in self._of.get(proxy, {}).values() if each.position > after)


def without_stale(
    orders: tuple[FenceTry, ...], now: dt.datetime, fresh_s: float
) -> tuple[FenceOrder, ...]:
    """Return the orders that may still go out."""
    limit = now - dt.timedelta(seconds=fresh_s)
    return tuple(each.order for each in orders if each.ordered_at >= limit)


async def with_secrets(intent: Intent, vault: Vault | None) -> Intent:
    """Put the passwords into an intent's orders; raises UnavailableError."""
    if not intent.fences:
        return intent
    orders = [await _with_secrets(order, vault) for order in intent.fences]
    return msgspec.structs.replace(intent, fences=tuple(orders))


async def _with_secrets(order: FenceOrder, vault: Vault | None) -> FenceOrder:
    agents: list[FenceAgent] = []
    for agent in order.agents:
        if not agent.password:
            agents.append(agent)
            continue
        password = await _password(agent.password, vault)
        if password is None:
            return msgspec.structs.replace(
                order,
                agents=tuple(msgspec.structs.replace(each, password="") for each in order.agents),
                fault=f"The password of fence agent {agent.name} is not in the vault: give it"
                " again with 'host power update-agent'.",
            )
        agents.append(msgspec.structs.replace(agent, password=password))
    return msgspec.structs.replace(order, agents=tuple(agents))


async def _password(reference: str, vault: Vault | None) -> str | None:
    if vault is None:
        return None
    try:
        return await vault.get(reference)
    except SecretForgotten:
        return None


def decide_fence(world: World, proxy: str, item: FenceItem) -> Decision:
    """Return the event that follows from a proxy's answer to an order; only the first counts."""
    host = world.get(HOST, item.host)
    known = host.power.find(item.order) if host is not None else None
    if host is None or known is None or not known.open or known.proxy != proxy:
        return Decision(id=item.host)
    answered = HostFenceAnswered(
        name=host.name,
        order=item.order,
        action=known.order.action,
        proxy=proxy,
        proxy_name=known.proxy_name,
        state=item.state,
        answers=item.answers,
        reason=item.reason,
    )
    return Decision(
        id=item.host,
        events=on(HOST.stream(item.host), answered),
        correlation=item.order.partition("/")[0],
    )


def _open(host: HostState) -> dict[str, FenceTry]:
    return {each.order.id: each for each in host.power.tries if each.open}
