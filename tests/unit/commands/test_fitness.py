"""Whether hosts are fit for their clusters, and what clusters may ask of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from commands.cluster.create import CreateCluster
from commands.cluster.update import UpdateCluster
from commands.host.activate import ActivateHost
from commands.host.update import UpdateHost
from commands.kernel.refusal import InvalidField, NotFound, PreconditionFailed, WrongState
from commands.kernel.testing import Given, When
from commands.state import fitness
from commands.state.cluster import CLUSTER as CLUSTERS
from commands.state.cluster import ClusterState
from commands.state.cpu_types import MODELS, CpuType
from commands.state.host import HOST, HostStatus
from events.types import host as h
from events.types.cluster import ClusterCreated, ClusterUpdated
from events.types.cluster_requirements import Requirements
from events.types.data_center import DataCenterCreated
from events.types.host_fitness import HostFitnessFound, Unfit, UnfitKind
from events.types.host_hardware import Hardware, HostNic, Virtualization
from tests.unit.commands.samples import (
    CLUSTER,
    DATA_CENTER,
    HOST_ID,
    NOBODY,
    OTHER_CLUSTER,
    PREPARING,
    RESTING,
    host,
    place,
)

GB = 1_000_000_000
KVM = Hardware(cpu_flags=("nx", "svm"))
ABILITIES = h.Capabilities(
    architecture="x86_64",
    cpus=8,
    cpu_model="EPYC",
    cpu_models=("EPYC", "Opteron_G5", "qemu64"),
    memory_bytes=64 * GB,
    machine_types=("pc-q35-7.2", "pc-q35-6.2"),
    bridges=("br0",),
    virtualization=Virtualization.KVM,
    compatibility_versions=("1.0",),
    hardware=KVM,
)
NIC = HostNic(name="eth0", mac="52:54:00:00:00:01", up=True)
K = UnfitKind
LACKING: list[tuple[UnfitKind, str, dict[str, Any], dict[str, Any]]] = [
    (K.ARCHITECTURE, "architecture is aarch64, not x86_64", {"architecture": "aarch64"}, {}),
    (K.CPU_MODEL, "model Haswell; its own is EPYC", {}, {"cpu_model": "Haswell"}),
    (K.MACHINE_TYPE, "machine type pc-q35-9.0", {}, {"machine_type": "pc-q35-9.0"}),
    (K.MEMORY, "1430 MiB of memory; 1907 MiB are", {"memory_bytes": 3 * GB // 2}, {}),
    (
        K.MEMORY,
        "8388608 MiB of memory; its cluster takes hosts of up to 4194304 MiB",
        {"memory_bytes": 2**43},
        {"requirements": Requirements(memory_max_bytes=2**42)},
    ),
    (
        K.NETWORK,
        "no bridge ovirtmgmt, vm",
        {},
        {"requirements": Requirements(bridges=("br0", "vm", "ovirtmgmt"))},
    ),
    (K.VERSION, "versions 1.0, and not the cluster's 2.0", {}, {"compatibility_version": "2.0"}),
    (K.CPU_FLAGS, "no NX flag", {"hardware": Hardware(cpu_flags=("svm", "sse"))}, {}),
    (K.VIRTUALIZATION, "neither vmx nor svm", {"hardware": Hardware(cpu_flags=("nx",))}, {}),
    (
        K.VIRTUALIZATION,
        "can only emulate",
        {"virtualization": Virtualization.EMULATION},
        {"requirements": Requirements(emulation=False)},
    ),
]


def cluster(**changes: object) -> ClusterState:
    state = place().state(CLUSTERS, CLUSTER)
    assert state is not None
    return msgspec.structs.replace(state, **changes)


def abilities(**changes: object) -> h.Capabilities:
    return msgspec.structs.replace(ABILITIES, **changes)


def reported(**changes: object) -> h.HostCapabilitiesReported:
    return h.HostCapabilitiesReported(capabilities=abilities(**changes))


@pytest.mark.parametrize(("kind", "words", "has", "asks"), LACKING)
def test_what_a_host_lacks_is_said_in_a_sentence(
    kind: UnfitKind, words: str, has: dict[str, Any], asks: dict[str, Any]
) -> None:
    (lacking,) = fitness.unfit(abilities(**has), cluster(**asks))
    assert lacking.kind is kind
    assert words in lacking.reason
    assert lacking.reason.endswith(".")


def test_every_kind_is_tried() -> None:
    assert {kind for kind, *_rest in LACKING} == set(UnfitKind)


def test_a_host_that_has_all_is_fit_and_all_that_is_lacking_is_told() -> None:
    assert fitness.unfit(ABILITIES, cluster()) == ()
    lacking = fitness.unfit(
        abilities(memory_bytes=GB, cpu_models=("qemu64",)), cluster(cpu_model="EPYC")
    )
    assert [each.kind for each in lacking] == [K.CPU_MODEL, K.MEMORY]


def test_what_is_not_reported_is_not_held_against_a_host() -> None:
    """given an agent of the release before, then its host stays in use"""
    old = h.Capabilities(
        architecture="x86_64",
        cpus=8,
        cpu_model="EPYC",
        memory_bytes=64 * GB,
        machine_types=("pc-q35-7.2",),
    )
    assert fitness.unfit(old, cluster(requirements=Requirements(emulation=False))) == ()
    assert fitness.unfit(None, cluster()) == ()


def test_a_host_that_emulates_will_do_unless_the_cluster_says_otherwise() -> None:
    emulates = abilities(virtualization=Virtualization.EMULATION, hardware=Hardware())
    assert fitness.unfit(emulates, cluster()) == ()


def test_only_news_are_an_event() -> None:
    state = host(HostStatus.UP, reported()).state(HOST, HOST_ID)
    assert state is not None
    assert fitness.found(state, cluster(), ABILITIES) is None
    news = fitness.found(state, cluster(), abilities(memory_bytes=GB))
    assert isinstance(news, HostFitnessFound)
    assert news.why == "It has 953 MiB of memory; 1907 MiB are needed."
    audit = news.audit()
    assert audit is not None
    assert (audit.code, audit.name) == (517, "VDS_SET_NONOPERATIONAL")


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        ((K.CPU_MODEL,), 515),
        ((K.NETWORK,), 519),
        ((K.MACHINE_TYPE,), 9604),
        ((K.VERSION,), 141),
        ((K.CPU_FLAGS,), 601),
        ((K.ARCHITECTURE,), 517),
        ((K.CPU_MODEL, K.NETWORK), 517),
        ((), 14),
    ],
)
def test_the_audit_code_is_ovirts(kinds: tuple[UnfitKind, ...], code: int) -> None:
    reasons = tuple(Unfit(kind=kind, reason="So.") for kind in kinds)
    audit = HostFitnessFound(name="a", cluster_name="c", reasons=reasons).audit()
    assert audit is not None
    assert audit.code == code


def test_of_hardware_little_is_kept_and_every_change_is_seen() -> None:
    """given a machine that changed where no decision looks, then its report is news all the same"""
    many = Hardware(cpu_flags=("fpu", "nx", "svm", "sse"), nics=(NIC,))
    state = host(HostStatus.UP, reported(hardware=many)).state(HOST, HOST_ID)
    assert state is not None
    assert state.capabilities is not None
    assert state.capabilities.hardware == Hardware(cpu_flags=("nx", "svm"))
    assert state.has_reported(abilities(hardware=many))
    assert not state.has_reported(abilities(hardware=msgspec.structs.replace(many, nics=())))
    assert not state.has_reported(abilities(hardware=None))
    assert fitness.unfit(state.capabilities, cluster()) == ()


def test_a_cpu_without_the_flags_stays_unfit_by_what_is_kept() -> None:
    bare = reported(hardware=Hardware(cpu_flags=("fpu", "sse")))
    state = host(HostStatus.UP, bare).state(HOST, HOST_ID)
    assert state is not None
    assert [each.kind for each in fitness.unfit(state.capabilities, cluster())] == [K.CPU_FLAGS]


# -------------------------------------------------------------------------------- the cluster


def members(given: Given, **changes: object) -> When:
    command = UpdateCluster(id=CLUSTER, **changes)  # type: ignore[arg-type]
    return given.when(command, hosts_of=lambda _cluster: (HOST_ID,))


def test_a_cluster_asks_for_more_of_hosts_that_have_it() -> None:
    when = members(host(HostStatus.UP, reported()), cpu_type=CpuType.OPTERON_G5, bridges=("br0",))
    when.then(
        ClusterUpdated(
            name="Default",
            description="",
            cpu_model="Opteron_G5",
            machine_type="pc-q35-7.2",
            compatibility_version="1.0",
            requirements=Requirements(bridges=("br0",)),
        )
    )


def test_a_cluster_is_renamed_and_keeps_what_is_not_given() -> None:
    when = members(host(HostStatus.UP, reported()), name="West")
    when.then(
        ClusterUpdated(
            name="West",
            previous_name="Default",
            data_center=DATA_CENTER,
            description="",
            cpu_model="qemu64",
            machine_type="pc-q35-7.2",
            compatibility_version="1.0",
            requirements=Requirements(),
        )
    )
    audit = when.event(ClusterUpdated).audit()
    assert audit.message.startswith("Cluster {previous_name} was updated by {actor}; its name")
    members(when.follows(), name="West").then_nothing()


@pytest.mark.parametrize("status", [HostStatus.UP, HostStatus.NON_RESPONSIVE])
def test_a_cluster_may_not_ask_for_what_its_hosts_lack(status: HostStatus) -> None:
    refusal = members(host(status, reported()), cpu_type=CpuType.HASWELL).refused(
        WrongState, "kvm01: It cannot provide the cluster's CPU model Haswell"
    )
    assert "maintenance" in refusal.remedy
    hosts = refusal.extra["hosts"]
    assert isinstance(hosts, dict)
    assert list(hosts) == ["kvm01"]


def test_hosts_that_are_not_in_use_need_not_fit_and_are_known_not_to() -> None:
    resting = host(HostStatus.UP, reported(), PREPARING, RESTING)
    follows = members(resting, cpu_type=CpuType.HASWELL).follows()
    state = follows.state(HOST, HOST_ID)
    assert state is not None
    assert state.status is HostStatus.MAINTENANCE
    assert [each.kind for each in state.unfit] == [K.CPU_MODEL]
    after = follows.when(ActivateHost(id=HOST_ID)).follows().state(HOST, HOST_ID)
    assert after is not None
    assert after.status is HostStatus.NON_OPERATIONAL


def test_asking_for_less_makes_a_host_fit_again() -> None:
    small = members(host(HostStatus.NON_OPERATIONAL), memory_min_bytes=GB // 4).follows()
    state = small.state(HOST, HOST_ID)
    assert state is not None
    assert state.status is HostStatus.UP


def test_a_new_cluster_takes_hosts_of_4_tb_and_an_old_one_any() -> None:
    created = place().when(CreateCluster(name="West", data_center=DATA_CENTER))
    event = created.accepted.events[0].event
    assert isinstance(event, ClusterCreated)
    large = abilities(memory_bytes=2**42)
    new = cluster(requirements=event.requirements)
    assert fitness.unfit(large, new) == ()
    (found,) = fitness.unfit(abilities(memory_bytes=2**42 + 1), new)
    assert found.kind is K.MEMORY
    stored = msgspec.json.decode(msgspec.json.encode(event))
    del stored["requirements"]["memory_max_bytes"]
    before = msgspec.convert(stored, ClusterCreated)
    old = cluster(requirements=before.requirements)
    assert fitness.unfit(abilities(memory_bytes=2**50), old) == ()

    largest = host(HostStatus.UP, reported(memory_bytes=2**43))
    members(largest, memory_max_bytes=2**43 - 1).refused(WrongState, "up to 8388607 MiB")
    assert members(largest, memory_max_bytes=2**43).accepted.events
    members(largest, memory_min_bytes=2 * GB, memory_max_bytes=GB).refused(
        InvalidField, "least memory is"
    )
    small = CreateCluster(name="W", data_center=DATA_CENTER, memory_max_bytes=GB)
    place().when(small).refused(InvalidField, "No host would be fit")


def test_a_member_that_left_meanwhile_does_not_count() -> None:
    moved = h.HostClusterChanged(
        name="kvm01", cluster=OTHER_CLUSTER, cluster_name="O", previous_cluster=CLUSTER
    )
    given = host(HostStatus.UP, reported(), moved)
    assert members(given, cpu_type=CpuType.HASWELL).accepted.events


def test_what_stays_the_same_is_no_event_and_versions_are_compared() -> None:
    given = host(HostStatus.UP, reported())
    assert members(given, cpu_model="qemu64", emulation=True).accepted.events == ()
    stale = UpdateCluster(id=CLUSTER, description="d")
    given.when(stale, if_match=7, hosts_of=lambda _c: ()).refused(PreconditionFailed, "version 1")
    given.when(UpdateCluster(id=NOBODY)).refused(NotFound, "cluster")


def test_a_cluster_is_not_older_than_its_data_center() -> None:
    given = host(HostStatus.UP, reported(compatibility_versions=()))
    members(given, compatibility_version="0.9").refused(InvalidField, "never lowered", "1.0 or a")
    assert members(given, compatibility_version="1.10").accepted.events


def test_a_compatibility_version_is_never_lowered() -> None:
    given = host(HostStatus.UP, reported(compatibility_versions=()))
    raised = members(given, compatibility_version="1.10").follows()
    members(raised, compatibility_version="1.9").refused(InvalidField, "is 1.10", "1.10 or a")
    assert members(raised, compatibility_version="1.11").accepted.events


def test_cpu_types_are_ovirts_names_for_libvirts_models() -> None:
    assert list(MODELS) == list(CpuType)
    created = place().when(
        CreateCluster(name="West", data_center=DATA_CENTER, cpu_type=CpuType.OPTERON_G4)
    )
    event = created.accepted.events[0].event
    assert isinstance(event, ClusterCreated)
    assert event.cpu_model == "Opteron_G4"
    given = host(HostStatus.UP)
    members(given, cpu_type=CpuType.EPYC, cpu_model="Haswell").refused(InvalidField, "is model")


def test_every_cpu_type_that_is_listed_can_be_asked_for() -> None:
    for cpu_type in CpuType:
        command = CreateCluster(name="West", data_center=DATA_CENTER, cpu_type=cpu_type)
        created = place().when(command).accepted.events[0].event
        assert isinstance(created, ClusterCreated)
        assert (created.architecture, created.cpu_model) == ("x86_64", MODELS[cpu_type])


# -------------------------------------------------------------------- a host's other cluster


def other_cluster(center: str = DATA_CENTER) -> tuple[str, ClusterCreated]:
    return (
        f"cluster/{OTHER_CLUSTER}",
        ClusterCreated(
            name="Other",
            data_center=center,
            architecture="x86_64",
            cpu_model="Haswell",
            machine_type="pc-q35-7.2",
            compatibility_version="1.0",
        ),
    )


MOVE = UpdateHost(id=HOST_ID, cluster=OTHER_CLUSTER)
MOVABLE = {
    HostStatus.MAINTENANCE,
    HostStatus.INSTALLING,
    HostStatus.INSTALL_FAILED,
    HostStatus.PENDING_APPROVAL,
}


@pytest.mark.parametrize("status", list(HostStatus))
def test_a_host_moves_between_clusters_in_maintenance_or_before_its_service(
    status: HostStatus,
) -> None:
    when = host(status).and_then(other_cluster()).when(MOVE)
    if status is HostStatus.REMOVED:
        when.refused(NotFound, HOST_ID)
    elif status not in MOVABLE:
        when.refused(WrongState, "kvm01")
    else:
        state = when.follows().state(HOST, HOST_ID)
        assert state is not None
        assert state.cluster == OTHER_CLUSTER


def test_a_host_is_in_one_data_center_only() -> None:
    elsewhere = "00000000-0000-0000-0000-0000000000d2"
    given = host(HostStatus.MAINTENANCE).and_then(
        (f"data_center/{elsewhere}", DataCenterCreated(name="X", compatibility_version="1.0")),
        other_cluster(elsewhere),
    )
    given.when(MOVE).refused(WrongState, "another data center")


def test_its_fitness_is_found_for_the_cluster_that_it_comes_to() -> None:
    given = host(HostStatus.UP, reported(), PREPARING, RESTING).and_then(other_cluster())
    state = given.when(MOVE).follows().state(HOST, HOST_ID)
    assert state is not None
    assert [each.kind for each in state.unfit] == [K.CPU_MODEL]
    back = UpdateHost(id=HOST_ID, cluster=CLUSTER)
    again = given.when(MOVE).follows().when(back).follows().state(HOST, HOST_ID)
    assert again is not None
    assert (again.unfit, again.cluster) == ((), CLUSTER)
