"""Given events, the documents that follow."""

import datetime as dt
import json
from typing import Any

import msgspec
import pytest

from events.types import affinity as a
from events.types import data_center as data_center_events
from events.types import host as host_events
from events.types import operation as operation_events
from events.types import vm as vm_events
from events.types.cluster import Scheduling, SchedulingPolicy
from events.types.job import JobKind
from events.types.scheduling_policy import SchedulingPolicyCreated, SchedulingPolicyRemoved
from events.types.scheduling_units import FilterUnit, WeightFactor, WeightUnit
from events.types.vm_jobs import VmDisksFailed, VmJobDone
from events.types.vm_power import VmStopRequested, VmSuspended, VmSuspendRequested
from projections.views.inventory import Inventory
from projections.views.tables import shelves
from tests.unit.projections.history import GIB, History, cluster_renamed


def fold(history: History) -> Inventory:
    inventory = Inventory()
    for recorded in history.recorded():
        inventory.apply(recorded)
    inventory.finish()
    return inventory


def shown(history: History, kind: str, object_id: str) -> dict[str, Any] | None:
    """The document as the API would show it."""
    for table, shelf in shelves(fold(history)):
        document = shelf.get(object_id)
        if table.kind == kind and document is not None:
            found: dict[str, Any] = json.loads(table.row(document, 1)[-1])
            return found
    return None


def vm(history: History, object_id: str) -> dict[str, Any]:
    found = shown(history, "vm", object_id)
    assert found is not None
    return found


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def place(history: History) -> tuple[str, str, str]:
    """A data center, a cluster and a host that is up."""
    center = history.make_data_center("Berlin")
    where = history.make_cluster(center, "main")
    return center, where, history.make_host(center, where)


def running_vm(history: History, place: tuple[str, str, str]) -> str:
    center, where, host = place
    vm_id = history.make_vm(center, where)
    history.ready(vm_id)
    history.runs(vm_id, host)
    return vm_id


class TestVm:
    def test_is_locked_while_its_disks_are_made(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        vm_id = history.make_vm(*place[:2])
        document = vm(history, vm_id)
        assert document["status"] == "image_locked"
        assert [disk["status"] for disk in document["disks"]] == ["locked"]
        assert document["cluster"] == {"id": place[1], "name": "main"}
        assert "disks are being made" in document["status_reason"]

    def test_without_disks_is_down_at_once(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        vm_id = history.make_vm(*place[:2], disks=0)
        assert vm(history, vm_id)["status"] == "down"

    def test_whose_disks_failed_says_why(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        vm_id = history.make_vm(*place[:2])
        failed = VmDisksFailed(name="web01", reason="The image is not there.")
        history.add(f"vm/{vm_id}", failed)
        document = vm(history, vm_id)
        assert document["status"] == "image_illegal"
        assert "The image is not there." in document["status_reason"]
        assert "Remove it" in document["next"]

    def test_runs(self, history: History, place: tuple[str, str, str]) -> None:
        vm_id = running_vm(history, place)
        document = vm(history, vm_id)
        assert document["status"] == document["last_known_status"] == "up"
        assert document["host"] == {"id": place[2], "name": "host1"}
        assert document["may_run_on"] == [document["host"]]
        assert document["incarnation"] == 1
        assert document["addresses"] == ["10.0.0.7", "fe80::1"]
        assert document["hostname"] == "web01"
        assert document["version"] == 7

    def test_tells_each_step_of_a_start(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        center, where, host = place
        vm_id = history.make_vm(center, where, disks=0)
        stream = f"vm/{vm_id}"
        history.add(stream, vm_events.VmStartRequested(name="web01"))
        assert vm(history, vm_id)["status"] == "waiting_for_launch"
        assert "being chosen" in vm(history, vm_id)["status_reason"]
        history.placed(vm_id, host)
        assert "host1 was told" in vm(history, vm_id)["status_reason"]
        started = vm_events.VmStarted(name="web01", host=host, host_name="host1", incarnation=1)
        history.add(stream, started)
        assert vm(history, vm_id)["status"] == "powering_up"

    def test_that_could_not_run_on_one_host_still_waits_for_another(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        center, where, host = place
        vm_id = history.make_vm(center, where, disks=0)
        history.add(f"vm/{vm_id}", vm_events.VmStartRequested(name="web01"))
        history.placed(vm_id, host)
        history.down(vm_id, host, reason=vm_events.DownReason.START_FAILED)
        document = vm(history, vm_id)
        assert document["status"] == "waiting_for_launch"
        assert document["host"] is None
        abandoned = vm_events.VmStartAbandoned(name="web01", reason="No host is left.")
        history.add(f"vm/{vm_id}", abandoned)
        document = vm(history, vm_id)
        assert document["status"] == "down"
        assert document["status_reason"] == "It could not be started. No host is left."

    @pytest.mark.parametrize("reason", list(vm_events.DownReason))
    def test_that_ended_says_why(
        self, history: History, place: tuple[str, str, str], reason: vm_events.DownReason
    ) -> None:
        vm_id = running_vm(history, place)
        history.down(vm_id, place[2], reason=reason, detail="It says so.")
        document = vm(history, vm_id)
        assert document["status"] == "down"
        assert document["down_reason"] == reason.value
        assert document["status_reason"].endswith("It says so.")
        assert document["host"] is None
        assert document["may_run_on"] == []
        assert document["addresses"] == []

    @pytest.mark.parametrize("reason", list(vm_events.PauseReason))
    def test_that_is_paused_says_why_and_what_to_do(
        self, history: History, place: tuple[str, str, str], reason: vm_events.PauseReason
    ) -> None:
        vm_id = running_vm(history, place)
        paused = vm_events.VmPaused(name="web01", incarnation=1, reason=reason)
        history.add(f"vm/{vm_id}", paused)
        document = vm(history, vm_id)
        assert document["status"] == "paused"
        assert document["pause_reason"] == reason.value
        assert document["status_reason"]
        assert "esume it" in document["next"]
        history.add(f"vm/{vm_id}", vm_events.VmContinued(name="web01", incarnation=1))
        assert vm(history, vm_id)["pause_reason"] is None

    def test_is_suspended_and_restored(self, history: History, place: tuple[str, str, str]) -> None:
        vm_id = running_vm(history, place)
        stream = f"vm/{vm_id}"
        history.add(stream, VmSuspendRequested(name="web01", incarnation=1))
        assert vm(history, vm_id)["status"] == "saving_state"
        history.add(
            stream,
            VmSuspended(
                name="web01", host=place[2], host_name="host1", incarnation=1, saved_memory="m"
            ),
        )
        document = vm(history, vm_id)
        assert document["status"] == "suspended"
        assert document["saved_memory"]["host"]["name"] == "host1"
        assert "host1" in document["status_reason"]
        history.add(stream, vm_events.VmStartRequested(name="web01"))
        history.placed(vm_id, place[2], incarnation=2)
        history.add(
            stream,
            vm_events.VmStarted(
                name="web01", host=place[2], host_name="host1", incarnation=2, restored=True
            ),
        )
        document = vm(history, vm_id)
        assert document["status"] == "restoring_state"
        assert document["saved_memory"] is None

    def test_edited_while_it_runs_shows_what_it_runs_with(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        center, where, host = place
        vm_id = history.make_vm(center, where)
        created = history.recorded()[-1].event
        assert isinstance(created, vm_events.VmCreated)
        before = created.configuration
        history.ready(vm_id)
        history.runs(vm_id, host, configuration=before)
        assert vm(history, vm_id)["next_run_configuration_exists"] is False
        bigger = msgspec.structs.replace(before, memory_bytes=2 * GIB)
        history.add(f"vm/{vm_id}", _updated(center, bigger))
        document = vm(history, vm_id)
        assert document["next_run_configuration_exists"] is True
        assert document["memory_bytes"] == 2 * GIB
        assert document["running_configuration"]["memory_bytes"] == GIB
        assert document["configuration_version"] == 2
        history.add(f"vm/{vm_id}", _updated(center, before))
        document = vm(history, vm_id)
        assert document["next_run_configuration_exists"] is False
        assert document["configuration_version"] == 3

    def test_being_removed_and_gone(self, history: History, place: tuple[str, str, str]) -> None:
        vm_id = history.make_vm(*place[:2])
        history.ready(vm_id)
        asked = vm_events.VmRemoveRequested(name="web01", data_center=place[0])
        history.add(f"vm/{vm_id}", asked)
        assert vm(history, vm_id)["status"] == "removing"
        history.add(f"vm/{vm_id}", vm_events.VmRemoved(name="web01", cluster=place[1]))
        assert shown(history, "vm", vm_id) is None
        assert vm_id in fold(history).vms.removed

    def test_events_after_the_removal_change_nothing(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        vm_id = history.make_vm(*place[:2])
        history.add(f"vm/{vm_id}", vm_events.VmRemoved(name="web01", cluster=place[1]))
        done = VmJobDone(job="j", kind=JobKind.VOLUMES_REMOVE, host=place[2])
        history.add(f"vm/{vm_id}", done)
        assert shown(history, "vm", vm_id) is None


def _updated(center: str, configuration: Any) -> vm_events.VmUpdated:
    return vm_events.VmUpdated(
        name="web01", previous_name="web01", data_center=center, configuration=configuration
    )


class TestSilentHost:
    def test_makes_its_vms_unknown_and_keeps_what_was_known(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        vm_id = running_vm(history, place)
        since = vm(history, vm_id)["status_since"]
        history.silence(place[2], "host1")
        document = vm(history, vm_id)
        assert document["status"] == "unknown"
        assert document["last_known_status"] == "up"
        assert document["last_known_status_since"] == since < document["status_since"]
        assert "host1 does not answer" in document["status_reason"]
        assert "host confirm-off host1" in document["next"]

    def test_that_answers_again_gives_its_vms_back(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        vm_id = running_vm(history, place)
        before = vm(history, vm_id)
        history.silence(place[2], "host1")
        history.session(place[2], "host1")
        assert vm(history, vm_id) == before

    def test_what_an_admin_asks_meanwhile_is_remembered(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        vm_id = running_vm(history, place)
        history.silence(place[2], "host1")
        stop = VmStopRequested(name="web01", host=place[2], incarnation=1)
        history.add(f"vm/{vm_id}", stop)
        document = vm(history, vm_id)
        assert (document["status"], document["last_known_status"]) == ("unknown", "powering_down")
        history.session(place[2], "host1")
        assert vm(history, vm_id)["status"] == "powering_down"

    def test_proved_off_ends_the_doubt(self, history: History, place: tuple[str, str, str]) -> None:
        vm_id = running_vm(history, place)
        history.silence(place[2], "host1")
        history.add(f"host/{place[2]}", host_events.HostConfirmedOff(name="host1"))
        history.down(vm_id, place[2], reason=vm_events.DownReason.HOST_LOST)
        assert vm(history, vm_id)["status"] == "down"
        assert shown(history, "host", place[2])["status"] == "down"  # type: ignore[index]

    def test_a_vm_placed_on_it_at_that_moment_is_unknown_too(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        vm_id = history.make_vm(*place[:2], disks=0)
        history.add(f"vm/{vm_id}", vm_events.VmStartRequested(name="web01"))
        history.silence(place[2], "host1")
        history.placed(vm_id, place[2])
        document = vm(history, vm_id)
        assert (document["status"], document["last_known_status"]) == (
            "unknown",
            "waiting_for_launch",
        )

    def test_leaves_vms_elsewhere_alone(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        center, where, _ = place
        other = history.make_host(center, where, "host2")
        vm_id = running_vm(history, place)
        history.silence(other, "host2")
        assert vm(history, vm_id)["status"] == "up"


class TestHost:
    def test_goes_from_installing_to_up(self, history: History) -> None:
        center = history.make_data_center()
        where = history.make_cluster(center)
        added = host_events.HostAdded(name="h", cluster=where, data_center=center)
        history.add("host/h", added)
        seen = [shown(history, "host", "h")]
        history.join("h", "h")
        seen.append(shown(history, "host", "h"))
        history.add("host/h", host_events.HostApproved(name="h"))
        seen.append(shown(history, "host", "h"))
        history.session("h", "h")
        seen.append(shown(history, "host", "h"))
        assert [one["status"] for one in seen if one] == [
            "installing",
            "pending_approval",
            "unassigned",
            "up",
        ]
        assert all(one["next"] for one in seen[:3] if one)

    def test_goes_into_maintenance_and_back(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        stream = f"host/{place[2]}"
        asked = host_events.HostMaintenanceRequested(name="host1", reason="new fan")
        history.add(stream, asked)
        document = shown(history, "host", place[2])
        assert document is not None
        assert document["status"] == "preparing_for_maintenance"
        assert "new fan" in document["status_reason"]
        history.add(stream, host_events.HostMaintenanceEntered(name="host1"))
        assert shown(history, "host", place[2])["status"] == "maintenance"  # type: ignore[index]
        history.add(stream, host_events.HostActivated(name="host1"))
        assert shown(history, "host", place[2])["status"] == "up"  # type: ignore[index]

    def test_used_by_two_machines_is_in_error_until_it_is_approved_again(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        stream = f"host/{place[2]}"
        history.add(stream, host_events.HostDuplicateRefused(name="host1", boots=("a", "b")))
        assert shown(history, "host", place[2])["status"] == "error"  # type: ignore[index]
        history.add(stream, host_events.HostApproved(name="host1"))
        assert shown(history, "host", place[2])["status"] == "up"  # type: ignore[index]

    def test_a_reason_with_braces_is_only_text(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        asked = host_events.HostMaintenanceRequested(name="host1", reason="{name!r} {0}")
        history.add(f"host/{place[2]}", asked)
        assert "{name!r} {0}" in shown(history, "host", place[2])["status_reason"]  # type: ignore[index]


class TestCounts:
    def test_follow_vms_and_hosts(self, history: History, place: tuple[str, str, str]) -> None:
        center, where, host = place
        running_vm(history, place)
        history.make_vm(center, where, "web02")
        history.make_host(center, where, "host2", up=False)
        assert shown(history, "host", host)["vms"] == {"total": 1, "up": 1}  # type: ignore[index]
        for kind, object_id in (("cluster", where), ("data_center", center)):
            document = shown(history, kind, object_id)
            assert document is not None
            assert document["vms"] == {"total": 2, "up": 1}
            assert document["hosts"] == {"total": 2, "up": 1, "joining": 1}

    def test_an_unknown_vm_is_not_up(self, history: History, place: tuple[str, str, str]) -> None:
        running_vm(history, place)
        history.silence(place[2], "host1")
        assert shown(history, "cluster", place[1])["vms"] == {"total": 1, "up": 0}  # type: ignore[index]

    def test_are_nothing_again_once_all_is_gone(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        center, where, host = place
        vm_id = running_vm(history, place)
        history.down(vm_id, host)
        history.add(f"vm/{vm_id}", vm_events.VmRemoved(name="web01", cluster=where))
        history.add(f"host/{host}", host_events.HostRemoved(name="host1", cluster=where))
        document = shown(history, "data_center", center)
        assert document is not None
        assert document["vms"] == {"total": 0, "up": 0}
        assert document["hosts"] == {"total": 0, "up": 0, "joining": 0}


class TestDataCenter:
    def test_guides_until_it_can_work(self, history: History) -> None:
        center = history.make_data_center()

        def document() -> dict[str, Any]:
            found = shown(history, "data_center", center)
            assert found is not None
            return found

        assert document()["status"] == "uninitialized"
        assert len(document()["guide"]) == 2
        where = history.make_cluster(center)
        assert document()["guide"] == ["Add a host to a cluster of this data center."]
        host = history.make_host(center, where, up=False)
        assert "join" in document()["guide"][0]
        history.join(host, "host1")
        history.session(host, "host1")
        assert document()["status"] == "up"
        assert document()["guide"] == []
        history.silence(host, "host1")
        assert document()["status"] == "not_operational"

    def test_renamed_is_renamed_where_others_name_it(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        center, where, host = place
        renamed = data_center_events.DataCenterRenamed(name="Bonn", previous_name="Berlin")
        history.add(f"data_center/{center}", renamed)
        assert shown(history, "cluster", where)["data_center"]["name"] == "Bonn"  # type: ignore[index]
        assert shown(history, "host", host)["data_center"]["name"] == "Bonn"  # type: ignore[index]
        assert shown(history, "data_center", center)["configuration_version"] == 2  # type: ignore[index]

    def test_raised_shows_its_compatibility_version(self, history: History) -> None:
        center = history.make_data_center()
        raised = data_center_events.DataCenterVersionRaised(
            name="Default", compatibility_version="4.9", previous_version="4.8"
        )
        history.add(f"data_center/{center}", raised)
        document = shown(history, "data_center", center)
        assert document is not None
        found = (document["compatibility_version"], document["configuration_version"])
        assert found == ("4.9", 2)


class TestCluster:
    def test_renamed_is_renamed_where_others_name_it(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        center, where, host = place
        vm_id = history.make_vm(center, where)
        group = history.new_id()
        made = a.AffinityGroupCreated(name="apart", cluster=where, affinity=a.Affinity())
        history.add(f"affinity_group/{group}", made)
        history.add(f"cluster/{where}", cluster_renamed("West", "Default", center))
        later = history.make_vm(center, where, "web02")
        assert shown(history, "cluster", where)["name"] == "West"  # type: ignore[index]
        for kind, one in (("vm", vm_id), ("vm", later), ("host", host), ("affinity_group", group)):
            assert shown(history, kind, one)["cluster"] == {"id": where, "name": "West"}  # type: ignore[index]


class TestOperation:
    def test_shows_steps_verdicts_and_its_end(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        vm_id = history.make_vm(*place[:2], disks=0)
        work = history.begin_operation(f"vm/{vm_id}", steps=("place", "boot"))
        stream = f"operation/{work}"
        assert [o["id"] for o in vm(history, vm_id)["operations"]] == [work]
        verdict = operation_events.Verdict(host="h", host_name="host1", reasons=("Too small.",))
        history.add(
            stream,
            operation_events.OperationStepStarted(step="place", input=1),
            operation_events.OperationStepDone(step="place", input=2),
            operation_events.OperationStepStarted(step="boot", input=3),
            operation_events.OperationProgressed(step="boot", percent=50),
        )
        document = shown(history, "operation", work)
        assert document is not None
        assert (document["status"], document["percent"]) == ("running", 75)
        assert document["target"] == {"kind": "vm", "id": vm_id}
        history.add(
            stream,
            operation_events.OperationStepRefused(
                step="boot",
                input=4,
                reason="No host fits.",
                verdicts=(verdict,),
                verdicts_left_out=7,
            ),
            operation_events.OperationEnded(
                kind="vm.start",
                target=f"vm/{vm_id}",
                name="web01",
                outcome=operation_events.Outcome.FAILED,
                reason="No host fits.",
            ),
        )
        document = shown(history, "operation", work)
        assert document is not None
        assert (document["status"], document["reason"]) == ("failed", "No host fits.")
        assert [step["status"] for step in document["steps"]] == ["done", "refused"]
        assert document["verdicts"][0]["reasons"] == ["Too small."]
        assert document["verdicts_left_out"] == 7
        assert document["ended_at"] is not None
        assert vm(history, vm_id)["operations"] == []

    def test_that_waits_tells_so_at_the_vm(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        vm_id = history.make_vm(*place[:2], disks=0)
        history.add(f"vm/{vm_id}", vm_events.VmStartRequested(name="web01"))
        work = history.begin_operation(f"vm/{vm_id}")
        history.add(
            f"operation/{work}",
            operation_events.OperationNeedsAttention(
                name="web01",
                reason="Host host1 does not answer.",
                waits_for="host host1",
                remedy="Run 'host confirm-off host1'.",
                input=1,
            ),
        )
        document = vm(history, vm_id)
        assert document["operations"][0]["status"] == "needs_attention"
        assert document["next"] == "Run 'host confirm-off host1'."
        assert "Host host1 does not answer." in document["status_reason"]
        started = operation_events.OperationStepStarted(step="place", input=2)
        history.add(f"operation/{work}", started)
        assert vm(history, vm_id)["operations"][0]["status"] == "running"

    def test_begun_before_its_target_exists_is_shown_at_it(
        self, history: History, place: tuple[str, str, str]
    ) -> None:
        vm_id = "made-later"
        work = history.begin_operation(f"vm/{vm_id}", kind="vm.create")
        created = vm_events.VmCreated(
            name="web01",
            data_center=place[0],
            cluster=place[1],
            configuration=history.configuration(),
        )
        history.add(f"vm/{vm_id}", created)
        assert [o["id"] for o in vm(history, vm_id)["operations"]] == [work]

    def test_shows_when_it_goes_on_by_itself(self, history: History) -> None:
        work = history.begin_operation("vm/x")
        due = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
        timer = operation_events.OperationTimerSet(timer="boot", due=due, input=1)
        history.add(f"operation/{work}", timer)
        document = shown(history, "operation", work)
        assert document is not None
        assert document["timers"] == [{"name": "boot", "due": "2026-11-02T00:00:00Z"}]
        history.add(f"operation/{work}", operation_events.OperationTimerFired(timer="boot"))
        assert shown(history, "operation", work)["timers"] == []  # type: ignore[index]

    def test_being_cancelled_says_so(self, history: History) -> None:
        work = history.begin_operation("vm/x")
        history.add(f"operation/{work}", operation_events.OperationCancelRequested())
        document = shown(history, "operation", work)
        assert document is not None
        assert (document["status"], document["cancel_requested"]) == ("cancelling", True)


def test_the_audit_log_has_the_rendered_records(
    history: History, place: tuple[str, str, str]
) -> None:
    vm_id = running_vm(history, place)
    history.down(vm_id, place[2], reason=vm_events.DownReason.CRASHED, detail="QEMU died.")
    records = fold(history).audits
    assert records[-1].code == 119
    assert records[-1].message.endswith("(crashed). QEMU died.")
    assert [record.position for record in records] == sorted(r.position for r in records)


def test_groups_and_labels_call_their_members_by_the_names_that_they_have_now() -> None:
    history = History()
    center = history.make_data_center("Berlin")
    where = history.make_cluster(center, "main")
    vm_id = history.make_vm(center, where)
    made = history.recorded()[-1].event
    assert isinstance(made, vm_events.VmCreated)
    member = a.Member(id=vm_id, name="web01")
    label, group = history.new_id(), history.new_id()
    said = a.Affinity(vms=(member,), vm_labels=(a.Member(id=label, name="front"),))
    history.add(f"affinity_label/{label}", a.AffinityLabelCreated(name="front", vms=(member,)))
    history.add(
        f"affinity_group/{group}",
        a.AffinityGroupCreated(name="pair", cluster=where, affinity=said),
    )

    def names() -> list[str]:
        found = [shown(history, "affinity_group", group), shown(history, "affinity_label", label)]
        return [
            one["name"]
            for document in found
            if document is not None
            for one in (*document["vms"], *document.get("vm_labels", ()))
        ]

    assert names() == ["web01", "front", "web01"]
    renamed = msgspec.structs.replace(_updated(center, made.configuration), name="web02")
    history.add(f"vm/{vm_id}", renamed)
    history.add(
        f"affinity_label/{label}",
        a.AffinityLabelUpdated(name="edge", former_name="front", vms=(member,)),
    )
    assert names() == ["web02", "edge", "web02"]
    # what decisions know of members is what they were called when they were added
    other = a.Member(id=history.new_id(), name="db01")
    history.add(
        f"affinity_group/{group}",
        a.AffinityGroupUpdated(
            name="pair",
            former_name="pair",
            cluster=where,
            affinity=msgspec.structs.replace(said, vms=(member, other)),
        ),
    )
    assert names() == ["web02", "db01", "edge", "web02"]


def test_a_scheduling_policy_shows_its_units_and_parameters() -> None:
    history = History()
    key = history.new_id()
    scheduling = Scheduling(
        policy=SchedulingPolicy.POWER_SAVING,
        filters=(FilterUnit.CPU,),
        weights=(WeightFactor(unit=WeightUnit.PREFERRED_HOSTS, factor=9),),
        hosts_in_reserve=2,
    )
    history.add(
        f"scheduling_policy/{key}",
        SchedulingPolicyCreated(name="mine", description="d", scheduling=scheduling),
    )
    document = shown(history, "scheduling_policy", key)
    assert document is not None
    assert (document["name"], document["balancer"]) == ("mine", "power_saving")
    assert document["filters"] == ["CPU"]
    assert document["weights"] == [{"unit": "PreferredHosts", "factor": 9}]
    assert document["parameters"]["hosts_in_reserve"] == 2
    history.add(f"scheduling_policy/{key}", SchedulingPolicyRemoved(name="mine"))
    assert shown(history, "scheduling_policy", key) is None


def test_a_list_shows_little_of_a_host() -> None:
    history = History()
    center = history.make_data_center("Berlin")
    host = history.make_host(center, history.make_cluster(center, "main"))
    inventory = fold(history)
    (table,) = (each for each, _ in shelves(inventory) if each.kind == "host")
    document = inventory.hosts.documents[host]
    columns = dict(zip(table.columns, table.row(document, 7), strict=True))
    whole, short = json.loads(columns["document"]), json.loads(columns["summary"])
    assert short.keys() < whole.keys()
    able = whole["capabilities"]
    assert (short["cpus"], short["memory_bytes"]) == (able["cpus"], able["memory_bytes"])
    assert short == {name: whole[name] for name in short}
    assert {"name", "status", "status_reason", "cluster", "vms"} <= short.keys()
