"""Events of a host's power, and of fencing: streams `host/<id>` and, at the end, `cluster/<id>`.

An order (`host.fence_ordered`) is about the host of the stream, and addressed to another one, the
proxy, whose agent talks to the fence agents. Passwords are references to the vault.
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import ClassVar

import msgspec

from events.types.base import Audit, Event, Severity, event


class ProxyScope(enum.StrEnum):
    """Where a host is looked for that carries a fencing out."""

    CLUSTER = "cluster"
    DATA_CENTER = "data_center"


class FenceOption(msgspec.Struct, frozen=True, kw_only=True):
    """An option of a fence agent's program, under the name that the program gives it."""

    name: str
    value: str


class FenceAgent(msgspec.Struct, frozen=True, kw_only=True):
    """A device that switches a host's power: a BMC, or a socket of a power strip.

    `type` names the program, without `fence_`. `order` says when its turn is; agents of one order
    are concurrent: each of them must be off for the host to be off. `password` is a reference to
    the vault in events, and the password itself only on its way to a proxy.
    """

    name: str
    type: str
    address: str
    port: int | None = None
    username: str = ""
    password: str = ""
    options: tuple[FenceOption, ...] = ()
    order: int = 1


class FenceAction(enum.StrEnum):
    """What a proxy is to do with a host's power."""

    STATUS = "status"
    OFF = "off"
    ON = "on"


class PowerState(enum.StrEnum):
    """What the fence agents say of a host's power; unknown where they fail or disagree."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class FenceOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a proxy is to do, within `timeout_s` seconds.

    Off and on are reached once the status of every agent says so. `witnesses` are addresses
    (host:port) where the host's own programs listen: while one answers, the host is not off,
    whatever its agents say. `fault` says why the order cannot be carried out as it is.
    """

    id: str
    host: str
    action: FenceAction
    agents: tuple[FenceAgent, ...]
    timeout_s: float
    witnesses: tuple[str, ...] = ()
    fault: str = ""


class AgentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an order at one agent, by the agent's name."""

    agent: str
    state: PowerState
    detail: str = ""


@event("host.power_configured")
class HostPowerConfigured(Event, frozen=True, kw_only=True):
    """How the host's power is managed: whether at all, and by which hosts as proxies."""

    name: str
    enabled: bool
    kdump_detection: bool
    proxies: tuple[ProxyScope, ...]


@event("host.fence_agent_set")
class HostFenceAgentSet(Event, frozen=True, kw_only=True):
    """The host has this fence agent, new or changed."""

    name: str
    agent: FenceAgent


@event("host.fence_agent_removed")
class HostFenceAgentRemoved(Event, frozen=True, kw_only=True):
    """The host has no fence agent of this name any more."""

    name: str
    agent: str


@event("host.fencing_begun")
class HostFencingBegun(Event, frozen=True, kw_only=True):
    """An operation looks after the host's silence; there is one for each silence."""

    name: str
    operation: str


@event("host.silence_questioned")
class HostSilenceQuestioned(Event, frozen=True, kw_only=True):
    """Before the host is turned off, who listens is asked whether it is silent still."""

    name: str


@event("host.silence_confirmed")
class HostSilenceConfirmed(Event, frozen=True, kw_only=True):
    """A gateway that listened for the whole time-out heard nothing of the host."""

    name: str
    last_contact: dt.datetime
    timeout_s: float


@event("host.fence_ordered")
class HostFenceOrdered(Event, frozen=True, kw_only=True):
    """A proxy is to do something with the host's power; addressed to the proxy."""

    name: str
    order: FenceOrder
    proxy: str
    proxy_name: str
    round: int = 1

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=9020,
            name="FENCE_OPERATION_USING_AGENT_AND_PROXY_STARTED",
            message="Power management: {order.action} of host {name} through host {proxy_name}.",
        ),
    )


@event("host.fence_answered")
class HostFenceAnswered(Event, frozen=True, kw_only=True):
    """What came of an order: the state that all its agents agree on, and each agent's own word."""

    name: str
    order: str
    action: FenceAction
    proxy: str
    proxy_name: str
    state: PowerState
    answers: tuple[AgentAnswer, ...] = ()
    reason: str = ""

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=9021,
            name="FENCE_OPERATION_USING_AGENT_AND_PROXY_FAILED",
            severity=Severity.WARNING,
            message="Power management: {action} of host {name} through host {proxy_name} failed:"
            " {reason}",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of a failure; a success shows in what follows from it."""
        wanted = {FenceAction.OFF: PowerState.OFF, FenceAction.ON: PowerState.ON}
        reached = self.state is wanted.get(self.action, self.state)
        return None if reached and self.state is not PowerState.UNKNOWN else self.audits[0]


@event("host.fence_withdrawn")
class HostFenceWithdrawn(Event, frozen=True, kw_only=True):
    """An order is wanted no more, or was not answered in time; addressed to the proxy.

    What it did meanwhile is not known.
    """

    name: str
    order: str
    proxy: str
    reason: str


@event("host.fenced_off")
class HostFencedOff(Event, frozen=True, kw_only=True):
    """The host's machine was turned off, and every agent of a group says that it is off.

    It is the proof on which its VMs are taken as ended. `automatic`: because of its silence.
    `found`: it was off already when its agents were asked, and nothing was switched.
    """

    name: str
    order: str
    proxy_name: str
    agents: tuple[str, ...]
    automatic: bool = True
    found: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_190,
            name="HOST_FENCED_OFF",
            severity=Severity.WARNING,
            message="Host {name} did not answer and was turned off through host {proxy_name}; its"
            " power is verified to be off. What ran there has ended.",
        ),
        Audit(
            code=60_191,
            name="HOST_TURNED_OFF",
            message="Host {name} was turned off by {actor} through host {proxy_name}; its power is"
            " verified to be off.",
        ),
        Audit(
            code=60_194,
            name="HOST_FOUND_OFF",
            severity=Severity.WARNING,
            message="Host {name} did not answer; its power was found to be off through host"
            " {proxy_name}. What ran there has ended.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of the one or the other."""
        if self.found:
            return self.audits[2]
        return self.audits[0 if self.automatic else 1]


@event("host.fenced_on")
class HostFencedOn(Event, frozen=True, kw_only=True):
    """The host's machine was turned on, and its agents say so; it boots, or should."""

    name: str
    order: str
    proxy_name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=9018,
            name="FENCE_OPERATION_SUCCEEDED",
            message="Host {name} was turned on through host {proxy_name}.",
            resolves="FENCE_OPERATION_FAILED",
        ),
    )


@event("host.fence_failed")
class HostFenceFailed(Event, frozen=True, kw_only=True):
    """No agent and no proxy could turn the host off, or on: what runs there stays unknown."""

    name: str
    action: FenceAction
    reason: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=9019,
            name="FENCE_OPERATION_FAILED",
            severity=Severity.ERROR,
            message="Power management: {action} of host {name} failed: {reason}",
        ),
    )


@event("host.kdump_started")
class HostKdumpStarted(Event, frozen=True, kw_only=True):
    """The host's kernel crashed and writes its dump: it says so over the network."""

    name: str
    address: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=614,
            name="KDUMP_FLOW_DETECTED_ON_VDS",
            message="Host {name} crashed and writes its kernel's dump; fencing waits for it.",
        ),
    )


@event("host.kdump_ended")
class HostKdumpEnded(Event, frozen=True, kw_only=True):
    """The host says no more that it writes a dump."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=616,
            name="KDUMP_FLOW_FINISHED_ON_VDS",
            message="Host {name} has ended writing its kernel's dump.",
        ),
    )


class FencingPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Whether hosts of a cluster are fenced, and when not: oVirt's fencing policy.

    `connectivity_broken_percent`: of the cluster's hosts, lost at once, from which on none is
    fenced where `skip_if_connectivity_broken`. `skip_if_storage_lease_live` is true in older logs
    alone, and nothing acts on it: hosts hold no leases on storage.
    """

    enabled: bool = True
    skip_if_connectivity_broken: bool = False
    connectivity_broken_percent: int = 50
    skip_if_storage_lease_live: bool = False


@event("cluster.fencing_set")
class ClusterFencingSet(Event, frozen=True, kw_only=True):
    """From now on hosts of the cluster are fenced by this policy."""

    name: str
    fencing: FencingPolicy

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=9016,
            name="FENCE_DISABLED_IN_CLUSTER_POLICY",
            severity=Severity.ALERT,
            message="Fencing is disabled in cluster {name}: VMs of a host that is lost wait for a"
            " person.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the alert that hosts are not fenced any more."""
        return None if self.fencing.enabled else self.audits[0]


@event("cluster.fencing_held")
class ClusterFencingHeld(Event, frozen=True, kw_only=True):
    """So many of the cluster's hosts are lost at once that none of them is fenced."""

    name: str
    lost: int
    hosts: int
    percent_max: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_192,
            name="CLUSTER_FENCING_HELD",
            severity=Severity.ALERT,
            message="{lost} of {hosts} hosts of cluster {name} are lost at once, more than"
            " {percent_max} %: none is fenced, since it is rather the network that fails. Hosts"
            " that you know to be off are confirmed with 'host confirm-off'.",
        ),
    )


@event("cluster.fencing_resumed")
class ClusterFencingResumed(Event, frozen=True, kw_only=True):
    """No more than a part of the cluster's hosts is lost any more: those are fenced again."""

    name: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_193,
            name="CLUSTER_FENCING_RESUMED",
            message="Hosts of cluster {name} that are lost are fenced again.",
            resolves="CLUSTER_FENCING_HELD",
        ),
    )
