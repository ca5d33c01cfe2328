"""Memory that is guaranteed to VMs, and what clusters have their hosts do when it runs short."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from commands.cluster.create import CreateCluster
from commands.cluster.resources import SetClusterResources
from commands.gateway.view import GatewayView
from commands.host.update import UpdateHost
from commands.kernel.refusal import InvalidField
from commands.scheduler.fleet import share_of
from commands.scheduler.need import need_of
from commands.state.cluster import CLUSTER as CLUSTERS
from commands.state.vm import VM
from commands.vm.create import CreateVm
from commands.vm.start import StartVm
from commands.vm.tune import TuneVm
from commands.vm.update import UpdateVm
from events.types import vm as v
from events.types.balancing import ClusterResourcesSet, Resources
from events.types.host import HostMaintenanceEntered, HostMaintenanceRequested
from events.types.host_memory import MemoryPolicy
from events.types.run_spec import VmConfiguration
from events.types.vm_memory import BalloonProblem, VmBalloonReported
from tests.unit.commands.samples import CLUSTER, MIB, VM_ID, place, vm
from tests.unit.commands.test_mac_pools import center_of
from tests.unit.policies.stage import Stage, running

GIB = 1024 * MIB


class TestVms:
    def test_all_of_it_is_guaranteed_unless_said_otherwise(self) -> None:
        made = place().when(CreateVm(name="a", cluster=CLUSTER)).event(v.VmCreated).configuration
        assert (made.memory_guaranteed_bytes, made.ballooning) == (None, True)
        wanted = CreateVm(
            name="a",
            cluster=CLUSTER,
            memory_bytes=512 * MIB,
            memory_guaranteed_bytes=128 * MIB,
            ballooning=False,
        )
        made = place().when(wanted).event(v.VmCreated).configuration
        assert (made.memory_guaranteed_bytes, made.ballooning) == (128 * MIB, False)

    def test_it_can_be_changed_and_given_up(self) -> None:
        changed = vm().when(UpdateVm(id=VM_ID, memory_guaranteed_bytes=100 * MIB))
        made = changed.event(v.VmUpdated).configuration
        assert made.memory_guaranteed_bytes == 100 * MIB
        given_up = changed.follows().when(UpdateVm(id=VM_ID, memory_guaranteed_bytes=None))
        assert given_up.event(v.VmUpdated).configuration.memory_guaranteed_bytes is None

    def test_no_more_than_its_memory(self) -> None:
        wanted = CreateVm(
            name="a", cluster=CLUSTER, memory_bytes=64 * MIB, memory_guaranteed_bytes=65 * MIB
        )
        place().when(wanted).refused(InvalidField, "are guaranteed", "give it more")
        history = vm().when(UpdateVm(id=VM_ID, memory_guaranteed_bytes=256 * MIB)).follows()
        less = UpdateVm(id=VM_ID, memory_bytes=128 * MIB)
        history.when(less).refused(InvalidField, "are guaranteed")
        both = UpdateVm(id=VM_ID, memory_bytes=128 * MIB, memory_guaranteed_bytes=None)
        assert history.when(both).event(v.VmUpdated).configuration.memory_bytes == 128 * MIB


def test_a_cluster_says_what_its_hosts_do() -> None:
    when = place().when(SetClusterResources(id=CLUSTER, ksm=True, ballooning=True))
    when.then(ClusterResourcesSet(name="Default", resources=Resources(ksm=True, ballooning=True)))
    again = SetClusterResources(id=CLUSTER, ksm=True, memory_percent=150)
    changed = when.follows().when(again).event(ClusterResourcesSet)
    assert changed.resources == Resources(ksm=True, ballooning=True, memory_percent=150)


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.open()
    return stage


class TestHostsAreTold:
    async def test_with_their_intent_and_where_it_changes(self, stage: Stage) -> None:
        (host,) = await stage.hosts()
        assert (await stage.intent(host)).memory == MemoryPolicy()
        position = (await stage.view()).position

        await stage.do(SetClusterResources(id=stage.cluster, ksm=True))

        view = await stage.view()
        changes = view.changes(host, position)
        assert changes is not None
        assert changes.memory == MemoryPolicy(ksm=True)
        assert view.intent(host).memory == MemoryPolicy(ksm=True)
        assert view.changes(host, view.position) is None

    async def test_and_not_of_what_does_not_concern_them(self, stage: Stage) -> None:
        (host,) = await stage.hosts()
        position = (await stage.view()).position
        await stage.do(SetClusterResources(id=stage.cluster, memory_percent=150))
        assert (await stage.view()).changes(host, position) is None

    async def test_whoever_waits_is_woken(self, stage: Stage) -> None:
        (host,) = await stage.hosts()
        view = await stage.view()
        signal = view.signal(host)
        await stage.do(SetClusterResources(id=stage.cluster, ballooning=True))
        for recorded in (await stage.history())[view.position :]:
            view.take(recorded)
        assert signal.is_set()

    async def test_a_host_in_another_cluster_does_as_that_one_says(self, stage: Stage) -> None:
        (host,) = await stage.hosts()
        other = await stage.do(CreateCluster(name="x", data_center=await center_of(stage)))
        await stage.do(SetClusterResources(id=other, ksm=True, ksm_merge_across_nodes=False))
        name = (await stage.host(host)).name
        await stage.append(
            f"host/{host}", HostMaintenanceRequested(name=name), HostMaintenanceEntered(name=name)
        )
        position = (await stage.view()).position

        await stage.do(UpdateHost(id=host, cluster=other))

        changes = (await stage.view()).changes(host, position)
        assert changes is not None
        assert changes.memory == MemoryPolicy(ksm=True, merge_across_nodes=False)

    async def test_a_snapshot_keeps_it(self, stage: Stage) -> None:
        (host,) = await stage.hosts()
        position = (await stage.view()).position
        await stage.do(SetClusterResources(id=stage.cluster, ksm=True))
        view = await stage.view()
        tables = {
            name: {
                key: msgspec.json.decode(msgspec.json.encode(state), type=type(state))
                for key, state in states.items()
            }
            for name, states in view.tables().items()
        }
        restored = GatewayView()
        restored.restore(view.position, tables)
        changes = restored.changes(host, position)
        assert changes is not None
        assert changes.memory == MemoryPolicy(ksm=True)
        assert restored.intent(host).memory == MemoryPolicy(ksm=True)


class TestBalloonProblems:
    async def test_they_are_told_once_and_so_is_their_end(self, stage: Stage) -> None:
        # given a VM that is up
        (host,) = await stage.hosts()
        vm_id = await stage.do(CreateVm(name="web01", cluster=stage.cluster))
        await stage.do(StartVm(id=vm_id))
        await stage.settle()
        await stage.report(host, running(vm_id))
        position = (await stage.view()).position

        # when its host says, again and again, that its balloon has no driver, and then that it has
        for problem in (BalloonProblem.SILENT,) * 3 + (BalloonProblem.NONE,) * 2:
            await stage.report(host, running(vm_id, balloon=problem))

        # then each is told once, the first as an error that the second ends
        told = [each.event for each in (await stage.history())[position:]]
        assert [type(event) for event in told] == [VmBalloonReported] * 2
        audits = [event.audit() for event in told]
        assert [audit and (audit.code, audit.name) for audit in audits] == [
            (176, "VM_BALLOON_DRIVER_ERROR"),
            (60_601, "VM_BALLOON_DRIVER_PRESENT"),
        ]
        assert audits[1] is not None
        assert audits[1].resolves == "VM_BALLOON_DRIVER_ERROR"


class TestPlacement:
    """What is guaranteed counts where memory may be taken back from VMs."""

    @pytest.mark.parametrize(
        ("changes", "guaranteed"),
        [
            (UpdateVm(id=VM_ID, memory_bytes=GIB, memory_guaranteed_bytes=100 * MIB), 100 * MIB),
            (UpdateVm(id=VM_ID, memory_bytes=GIB), GIB),
            (
                UpdateVm(
                    id=VM_ID,
                    memory_bytes=GIB,
                    memory_guaranteed_bytes=100 * MIB,
                    ballooning=False,
                ),
                GIB,
            ),
        ],
    )
    def test_a_vm_takes_what_it_never_gives_back(self, changes: UpdateVm, guaranteed: int) -> None:
        story = vm().when(changes).follows()
        state, cluster = story.state(VM, VM_ID), story.state(CLUSTERS, CLUSTER)
        assert state is not None
        assert cluster is not None
        assert share_of(state).guaranteed_bytes == guaranteed
        need = need_of(state, cluster)
        assert (need.memory_bytes, need.guaranteed_bytes, need.ballooning) == (
            GIB,
            guaranteed,
            False,
        )

    def test_huge_pages_are_counted_elsewhere(self) -> None:
        story = vm().when(TuneVm(id=VM_ID, huge_page_bytes=2 * MIB)).follows()
        state = story.state(VM, VM_ID)
        assert state is not None
        assert share_of(state).guaranteed_bytes == 0

    def test_the_cluster_says_whether_it_counts(self) -> None:
        story = vm().when(SetClusterResources(id=CLUSTER, ballooning=True)).follows()
        state, cluster = story.state(VM, VM_ID), story.state(CLUSTERS, CLUSTER)
        assert state is not None
        assert cluster is not None
        assert need_of(state, cluster).ballooning

    async def test_over_commitment_is_what_guests_may_have_to_give_back(self, stage: Stage) -> None:
        """given room for one and a half times a host's memory, when VMs start, then so many fit"""
        await stage.do(SetClusterResources(id=stage.cluster, ballooning=True, memory_percent=150))
        (host,) = await stage.hosts()
        vms = []
        for number in range(4):
            created = CreateVm(name=f"web{number}", cluster=stage.cluster, memory_bytes=6 * GIB)
            vms.append(await stage.do(created))
            await stage.do(StartVm(id=vms[-1]))
            await stage.settle()

        *placed, refused = [(await stage.vm(vm_id)) for vm_id in vms]

        assert [state.run is not None and state.run.host for state in placed] == [host] * 3
        assert refused.run is None
        assert placed[0].run is not None
        assert placed[0].run.spec.memory_kept_bytes == 4 * GIB
        assert share_of(placed[0]).guaranteed_bytes == 4 * GIB

    @pytest.mark.parametrize(
        ("changes", "percent", "kept"),
        [
            ({}, 100, GIB),
            ({}, 150, GIB * 2 // 3),
            ({}, 50, GIB),
            ({"memory_guaranteed_bytes": 100 * MIB}, 150, 100 * MIB),
            ({"ballooning": False}, 150, GIB),
        ],
    )
    def test_what_is_kept(self, changes: dict[str, Any], percent: int, kept: int) -> None:
        configuration = VmConfiguration(memory_bytes=GIB, **changes)
        assert configuration.memory_kept_bytes(percent) == kept
