"""What the inventory shows of a host's power, and of the fencing of a cluster's hosts."""

from __future__ import annotations

import datetime as dt
import uuid

import msgspec

from events.envelope import Recorded
from events.types import host as h
from events.types import host_power as e
from events.types.base import Event, type_of
from events.types.host_boot import HostBootOverdue
from projections.views import host as view
from projections.views.host_document import HostDocument, HostStatus
from projections.views.host_power import BEING_FENCED
from projections.views.host_words import explained
from projections.views.parts import OperationInProgress
from projections.views.telling import is_mute

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
AGENT = e.FenceAgent(
    name="bmc", type="ipmilan", address="192.0.2.9", username="admin", password="vault/secret"
)
BOTH = (e.ProxyScope.CLUSTER, e.ProxyScope.DATA_CENTER)
ADDED = h.HostAdded(name="kvm01", cluster="c", data_center="d", approved=True)
JOINED = h.HostJoinRequested(
    name="kvm01", token="t", public_key_sha256="k", hardware="hw", signing_request="r"
)
HELLO = h.HostSessionStarted(name="kvm01", session="s1", boot="b1", protocol=1)
SILENT = h.HostSilent(name="kvm01", last_contact=NOW, timeout_s=60)
OFF = e.HostFencedOff(name="kvm01", order="o1", proxy_name="kvm02", agents=("bmc",))


def shown(*events: Event) -> HostDocument:
    """Return the host as it is shown after these events."""
    document: HostDocument | None = None
    for number, event in enumerate((ADDED, JOINED, HELLO, *events), 1):
        recorded = Recorded(
            position=number,
            stream="host/h1",
            version=number,
            name=type_of(type(event)).name,
            event=event,
            time=NOW + dt.timedelta(seconds=number),
            actor="admin:test",
            command=uuid.UUID(int=number),
        )
        document = view.evolve(document, recorded)
    assert document is not None
    return document


def answered(state: e.PowerState, reason: str = "") -> e.HostFenceAnswered:
    return e.HostFenceAnswered(
        name="kvm01",
        order="o1",
        action=e.FenceAction.STATUS,
        proxy="h2",
        proxy_name="kvm02",
        state=state,
        reason=reason,
    )


def test_agents_are_shown_in_order_without_their_passwords() -> None:
    second = msgspec.structs.replace(AGENT, name="a2", order=2, password="")
    document = shown(
        e.HostFenceAgentSet(name="kvm01", agent=second),
        e.HostFenceAgentSet(name="kvm01", agent=AGENT),
    )
    assert [(a.name, a.password_set) for a in document.power.agents] == [
        ("bmc", True),
        ("a2", False),
    ]
    assert b"vault/" not in msgspec.json.encode(document)
    removed = e.HostFenceAgentRemoved(name="kvm01", agent="a2")
    document = shown(
        e.HostFenceAgentSet(name="kvm01", agent=AGENT),
        e.HostFenceAgentSet(name="kvm01", agent=second),
        removed,
    )
    assert [a.name for a in document.power.agents] == ["bmc"]


def test_the_last_word_of_the_agents_is_shown_with_its_time_and_doubt() -> None:
    power = shown(answered(e.PowerState.ON), answered(e.PowerState.UNKNOWN, "no answer.")).power
    assert (power.state, power.state_reason) == (e.PowerState.UNKNOWN, "no answer.")
    assert power.state_at == NOW + dt.timedelta(seconds=5)


def test_a_host_that_was_turned_off_says_so_until_it_is_heard() -> None:
    document = explained(shown(SILENT, OFF))
    assert document.power.fenced_off
    assert "verified to be off" in document.status_reason
    again = explained(shown(SILENT, OFF, HELLO))
    assert not again.power.fenced_off
    assert "off" not in again.status_reason


ON = e.HostFencedOn(name="kvm01", order="o2", proxy_name="kvm02")
OVERDUE = HostBootOverdue(name="kvm01", turned_on_at=NOW, timeout_s=600)
RESTING = (
    h.HostMaintenanceRequested(name="kvm01", reason="new fans"),
    h.HostMaintenanceEntered(name="kvm01"),
)


def test_a_host_that_is_off_is_down_and_reboots_and_says_what_comes_next() -> None:
    managed = e.HostPowerConfigured(name="kvm01", enabled=True, kdump_detection=False, proxies=BOTH)
    down = explained(shown(managed, SILENT, OFF))
    assert down.status is HostStatus.DOWN
    assert "host power start kvm01" in down.next
    assert "does not answer" not in down.status_reason
    boots = explained(shown(managed, SILENT, OFF, ON))
    assert boots.status is HostStatus.REBOOT
    assert boots.power.turned_on_at == NOW + dt.timedelta(seconds=7)
    assert "2026-01-01 00:00:07 UTC" in boots.status_reason
    assert "off" not in boots.status_reason
    late = explained(shown(managed, SILENT, OFF, ON, OVERDUE))
    assert late.status is HostStatus.NON_RESPONSIVE
    assert "has not said hello since" in late.status_reason
    assert "console" in late.next
    again = explained(shown(managed, SILENT, OFF, ON, OVERDUE, HELLO))
    assert (again.status, again.status_reason) == (HostStatus.UP, "")
    assert (again.power.turned_on_at, again.power.boot_overdue) == (None, False)


def test_a_host_in_maintenance_that_was_turned_off_is_down_and_says_that_it_rests() -> None:
    down = explained(shown(*RESTING, OFF))
    assert down.status is HostStatus.DOWN
    assert "new fans" in down.status_reason
    assert "back to maintenance" in down.next
    assert explained(shown(*RESTING, OFF, ON, HELLO)).status is HostStatus.MAINTENANCE


def test_an_admins_word_for_off_ends_with_the_host_being_turned_on() -> None:
    vouched = h.HostConfirmedOff(name="kvm01")
    assert "An admin confirmed" in explained(shown(SILENT, vouched)).status_reason
    assert "An admin confirmed" not in explained(shown(SILENT, vouched, ON)).status_reason
    assert explained(shown(SILENT, OFF, ON, vouched)).status is HostStatus.DOWN


def test_what_runs_on_a_host_that_is_away_is_not_known_before_its_own_events() -> None:
    dumps = e.HostKdumpStarted(name="kvm01", address="192.0.2.1")
    away: list[tuple[Event, ...]] = [(SILENT,), (SILENT, dumps), (SILENT, OFF), (SILENT, OFF, ON)]
    for events in away:
        assert is_mute(shown(*events))
    resting: list[tuple[Event, ...]] = [RESTING, (*RESTING, OFF), (*RESTING, OFF, ON)]
    for events in (*resting, (), (SILENT, OFF, ON, HELLO)):
        assert not is_mute(shown(*events))


def test_a_silent_host_says_that_it_is_being_fenced_or_what_that_waits_for() -> None:
    operation = OperationInProgress(id="op", kind="host.fence", status="running")
    document = msgspec.structs.replace(shown(SILENT), operations=(operation,))
    assert explained(document).next == BEING_FENCED
    stuck = msgspec.structs.replace(operation, reason="bmc is deaf.", remedy="Look at it.")
    document = msgspec.structs.replace(shown(SILENT), operations=(stuck,))
    assert explained(document).next == "bmc is deaf. Look at it."


def test_configuration_and_dumps_are_shown() -> None:
    configured = e.HostPowerConfigured(
        name="kvm01", enabled=True, kdump_detection=True, proxies=BOTH
    )
    dump = e.HostKdumpStarted(name="kvm01", address="192.0.2.1")
    power = shown(configured, SILENT, dump).power
    assert (power.enabled, power.kdump_detection, power.kdumping) == (True, True, True)
    assert not shown(configured, SILENT, dump, e.HostKdumpEnded(name="kvm01")).power.kdumping


def test_a_silent_host_with_power_management_says_what_may_hold_its_fencing_up() -> None:
    configured = e.HostPowerConfigured(
        name="kvm01", enabled=True, kdump_detection=True, proxies=BOTH
    )
    assert "fencing_held" not in explained(shown(SILENT)).next
    waiting = explained(shown(configured, SILENT))
    assert "unless too many hosts of its cluster are lost at once" in waiting.next
    assert "host confirm-off kvm01" in waiting.next

    dump = e.HostKdumpStarted(name="kvm01", address="192.0.2.1")
    step = OperationInProgress(id="op", kind="host.fence", status="running", detail="It dumps.")
    dumping = msgspec.structs.replace(shown(configured, SILENT, dump), operations=(step,))
    assert "writes its dump" in explained(dumping).status_reason
    assert explained(dumping).next == f"It dumps. {BEING_FENCED}"
    assert "dump" not in explained(shown(configured, SILENT, dump, HELLO)).status_reason
