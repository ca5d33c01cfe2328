"""What the verbs of affinity groups and labels decide, and which groups contradict each other."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given as generated
from hypothesis import strategies as st

from commands.affinity.add_to_group import AddToAffinityGroup
from commands.affinity.add_to_label import AddToAffinityLabel
from commands.affinity.create_group import CreateAffinityGroup
from commands.affinity.create_label import CreateAffinityLabel
from commands.affinity.remove_group import RemoveAffinityGroup
from commands.affinity.remove_label import RemoveAffinityLabel
from commands.affinity.take_from_group import TakeFromAffinityGroup
from commands.affinity.take_from_label import TakeFromAffinityLabel
from commands.affinity.update_group import UpdateAffinityGroup
from commands.affinity.update_label import UpdateAffinityLabel
from commands.cluster.create import CreateCluster
from commands.cluster.remove import RemoveCluster
from commands.data_center.create import CreateDataCenter
from commands.host.add import AddHost
from commands.kernel.refusal import InUse, InvalidField, NameTaken, NotFound
from commands.kernel.testing import fresh
from commands.state.affinity import (
    AFFINITY_GROUP,
    AFFINITY_LABEL,
    AffinityConflict,
    ResolvedGroup,
    conflict,
    merged,
)
from commands.vm.create import CreateVm
from events.types.affinity import (
    Affinity,
    AffinityGroupCreated,
    AffinityGroupRemoved,
    AffinityGroupUpdated,
    AffinityLabelCreated,
    AffinityLabelRemoved,
    AffinityLabelUpdated,
    Member,
    Polarity,
    Rule,
)
from events.types.cluster import ClusterAffinityGroupsListed
from tests.unit.commands.samples import CLUSTER, HOST_ID, NOBODY, OTHER_CLUSTER, VM_ID, vm
from tests.unit.commands.test_claims import Engine

GROUP = "00000000-0000-0000-0000-0000000000b1"
OTHER_GROUP = "00000000-0000-0000-0000-0000000000b2"
LABEL = "00000000-0000-0000-0000-0000000000b3"
WEB = Member(id=VM_ID, name="web01")
KVM = Member(id=HOST_ID, name="kvm01")
MUST = Rule(polarity=Polarity.POSITIVE, enforcing=True)
MUST_NOT = Rule(polarity=Polarity.NEGATIVE, enforcing=True)


def created(affinity: Affinity, name: str = "pair") -> AffinityGroupCreated:
    return AffinityGroupCreated(name=name, cluster=CLUSTER, affinity=affinity)


def listed(*groups: str) -> tuple[str, ClusterAffinityGroupsListed]:
    return (f"cluster/{CLUSTER}", ClusterAffinityGroupsListed(name="Default", groups=groups))


def test_a_group_comes_to_be_and_its_cluster_lists_it() -> None:
    when = vm().when(
        CreateAffinityGroup(
            name="pair",
            cluster=CLUSTER,
            host_rule=Polarity.POSITIVE,
            host_enforcing=True,
            vm_enforcing=True,
            vms=(VM_ID, VM_ID),
            hosts=(HOST_ID,),
        )
    )
    affinity = Affinity(
        host_rule=MUST, vms=(WEB,), hosts=(KVM,)
    )  # a disabled rule enforces nothing
    when.then(created(affinity), ClusterAffinityGroupsListed(name="Default", groups=(fresh(),)))


def test_members_are_of_the_groups_cluster() -> None:
    history = vm()
    history.when(CreateAffinityGroup(name="pair", cluster=CLUSTER, vms=(NOBODY,))).refused(NotFound)
    history.when(CreateAffinityGroup(name="pair", cluster=NOBODY)).refused(NotFound)
    elsewhere = history.and_then(
        (f"cluster/{OTHER_CLUSTER}", history.streams[f"cluster/{CLUSTER}"][0].event)
    )
    for command in (
        CreateAffinityGroup(name="pair", cluster=OTHER_CLUSTER, vms=(VM_ID,)),
        CreateAffinityGroup(name="pair", cluster=OTHER_CLUSTER, hosts=(HOST_ID,)),
    ):
        elsewhere.when(command).refused(InvalidField)


def test_members_come_and_go() -> None:
    history = vm().and_then((f"affinity_group/{GROUP}", created(Affinity())), listed(GROUP))
    when = history.when(AddToAffinityGroup(id=GROUP, vms=(VM_ID,), hosts=(HOST_ID,)))
    both = Affinity(vms=(WEB,), hosts=(KVM,))
    when.then(AffinityGroupUpdated(name="pair", former_name="pair", cluster=CLUSTER, affinity=both))
    full = when.follows()
    full.when(AddToAffinityGroup(id=GROUP, vms=(VM_ID,))).then_nothing()
    full.when(TakeFromAffinityGroup(id=GROUP, hosts=(NOBODY,))).then_nothing()
    left = full.when(TakeFromAffinityGroup(id=GROUP, vms=(VM_ID,))).follows()
    state = left.state(AFFINITY_GROUP, GROUP)
    assert state is not None
    assert state.affinity == Affinity(hosts=(KVM,))


def test_a_groups_rules_and_words_change_and_what_is_not_given_stays() -> None:
    history = vm().and_then(
        (f"affinity_group/{GROUP}", created(Affinity(vms=(WEB,)))), listed(GROUP)
    )
    history.when(UpdateAffinityGroup(id=GROUP)).then_nothing()
    history.when(
        UpdateAffinityGroup(
            id=GROUP, name="couple", vm_rule=Polarity.NEGATIVE, vm_enforcing=True, priority=3
        )
    ).then(
        AffinityGroupUpdated(
            name="couple",
            former_name="pair",
            cluster=CLUSTER,
            affinity=Affinity(vm_rule=MUST_NOT, vms=(WEB,), priority=3),
        )
    )


def test_a_group_that_is_removed_is_listed_no_more() -> None:
    history = vm().and_then(
        (f"affinity_group/{GROUP}", created(Affinity())), listed(GROUP, OTHER_GROUP)
    )
    when = history.when(RemoveAffinityGroup(id=GROUP))
    when.then(
        AffinityGroupRemoved(name="pair", cluster=CLUSTER),
        ClusterAffinityGroupsListed(name="Default", groups=(OTHER_GROUP,)),
    )
    when.follows().when(RemoveAffinityGroup(id=GROUP)).refused(NotFound)


def test_a_group_that_contradicts_another_is_refused_with_the_reason() -> None:
    bound = created(Affinity(host_rule=MUST, vms=(WEB,), hosts=(KVM,)), "must")
    history = vm().and_then((f"affinity_group/{GROUP}", bound), listed(GROUP))
    soft = CreateAffinityGroup(
        name="never",
        cluster=CLUSTER,
        host_rule=Polarity.NEGATIVE,
        vms=(VM_ID,),
        hosts=(HOST_ID,),
    )
    enforcing = msgspec.structs.replace(soft, host_enforcing=True)
    refusal = history.when(enforcing).refused(AffinityConflict)
    assert refusal.detail == "Groups must, never together leave no host to a VM."
    assert history.when(soft).events


def test_a_label_that_would_make_groups_contradict_each_other_is_refused() -> None:
    label = Member(id=LABEL, name="licensed")
    history = vm().and_then(
        (f"affinity_label/{LABEL}", AffinityLabelCreated(name="licensed")),
        (
            f"affinity_group/{GROUP}",
            created(Affinity(host_rule=MUST, vms=(WEB,), hosts=(KVM,)), "must"),
        ),
        (
            f"affinity_group/{OTHER_GROUP}",
            created(Affinity(host_rule=MUST_NOT, vm_labels=(label,), hosts=(KVM,)), "never"),
        ),
        listed(GROUP, OTHER_GROUP),
    )
    history.when(AddToAffinityLabel(id=LABEL, vms=(VM_ID,))).refused(AffinityConflict)
    assert history.when(AddToAffinityLabel(id=LABEL, hosts=(HOST_ID,))).events


def test_a_labels_life() -> None:
    when = vm().when(CreateAffinityLabel(name="licensed", vms=(VM_ID,)))
    when.then(AffinityLabelCreated(name="licensed", vms=(WEB,)))
    key = fresh()
    history = when.follows()
    more = history.when(AddToAffinityLabel(id=key, vms=(VM_ID,), hosts=(HOST_ID,)))
    more.then(
        AffinityLabelUpdated(name="licensed", former_name="licensed", vms=(WEB,), hosts=(KVM,))
    )
    less = more.follows().when(TakeFromAffinityLabel(id=key, vms=(VM_ID,))).follows()
    renamed = less.when(UpdateAffinityLabel(id=key, name="paid")).follows()
    state = renamed.state(AFFINITY_LABEL, key)
    assert state is not None
    assert (state.name, state.vms, state.hosts) == ("paid", (), (KVM,))
    gone = renamed.when(RemoveAffinityLabel(id=key))
    gone.then(AffinityLabelRemoved(name="paid"))
    gone.follows().when(RemoveAffinityLabel(id=key)).refused(NotFound)


async def test_names_and_references_are_claimed() -> None:
    engine = Engine()
    data_center = await engine.do(CreateDataCenter(name="dc"))
    cluster = await engine.do(CreateCluster(name="c", data_center=data_center))
    label = await engine.do(CreateAffinityLabel(name="x"))
    group = await engine.do(CreateAffinityGroup(name="g", cluster=cluster, vm_labels=(label,)))
    with pytest.raises(NameTaken):
        await engine.do(CreateAffinityGroup(name="G", cluster=cluster))
    with pytest.raises(NameTaken):
        await engine.do(CreateAffinityLabel(name="X"))
    with pytest.raises(InUse):
        await engine.do(RemoveAffinityLabel(id=label))
    with pytest.raises(InUse):
        await engine.do(RemoveCluster(id=cluster))
    await engine.do(UpdateAffinityGroup(id=group, name="h"))
    await engine.do(TakeFromAffinityGroup(id=group, vm_labels=(label,)))
    await engine.do(RemoveAffinityLabel(id=label))
    await engine.do(CreateAffinityLabel(name="x"))
    await engine.do(CreateAffinityGroup(name="g", cluster=cluster))
    await engine.do(RemoveAffinityGroup(id=group))


async def test_a_member_can_be_removed() -> None:
    engine = Engine()
    data_center = await engine.do(CreateDataCenter(name="dc"))
    cluster = await engine.do(CreateCluster(name="c", data_center=data_center))
    await engine.do(AddHost(name="h", cluster=cluster))
    machine = await engine.do(CreateVm(name="v", cluster=cluster, memory_bytes=2**28))
    await engine.do(CreateAffinityGroup(name="g", cluster=cluster, vms=(machine,)))


# -------------------------------------------------------------------------------------- conflicts
def group(
    name: str,
    vms: str,
    *,
    vm_rule: Rule = Rule(),  # noqa: B008 - frozen
    host_rule: Rule = Rule(),  # noqa: B008 - frozen
    hosts: str = "",
) -> ResolvedGroup:
    return ResolvedGroup(
        id=name,
        name=name,
        vm_rule=vm_rule,
        host_rule=host_rule,
        priority=1.0,
        vms=tuple(sorted(vms)),
        hosts=tuple(sorted(hosts)),
    )


def test_groups_that_share_a_vm_make_one_set() -> None:
    groups = [
        group("one", "ab", vm_rule=MUST),
        group("two", "cd", vm_rule=MUST),
        group("soft", "ax", vm_rule=Rule(polarity=Polarity.POSITIVE)),
        group("three", "bc", vm_rule=MUST),
    ]
    assert merged(groups) == [(frozenset("abcd"), ("two", "one", "three"))]


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        (
            [
                group("one", "ab", vm_rule=MUST),
                group("two", "bc", vm_rule=MUST),
                group("apart", "ac", vm_rule=MUST_NOT),
            ],
            "Group apart keeps VMs apart that belong together by groups one, two.",
        ),
        (
            [
                group("one", "ab", vm_rule=MUST),
                group("here", "a", host_rule=MUST, hosts="1"),
                group("there", "b", host_rule=MUST, hosts="2"),
            ],
            "groups here, there together leave no host to a VM.",
        ),
        (
            [
                group("here", "a", host_rule=MUST, hosts="12"),
                group("not", "a", host_rule=MUST_NOT, hosts="12"),
            ],
            "groups here, not together leave no host to a VM.",
        ),
        ([group("nowhere", "a", host_rule=MUST), group("not", "a", host_rule=MUST_NOT)], None),
        (
            [
                group("here", "a", host_rule=MUST, hosts="12"),
                group("not", "a", host_rule=MUST_NOT, hosts="1"),
                group("apart", "ab", vm_rule=MUST_NOT),
            ],
            None,
        ),
    ],
)
def test_what_contradicts_itself(groups: list[ResolvedGroup], reason: str | None) -> None:
    assert conflict(groups) == reason


RULES = st.builds(Rule, polarity=st.sampled_from(Polarity), enforcing=st.booleans())
GROUPS = st.lists(
    st.builds(
        group,
        st.text("gh", min_size=1, max_size=2),
        st.text("abcd", max_size=4).map(lambda text: "".join(sorted(set(text)))),
        vm_rule=RULES,
        host_rule=RULES,
        hosts=st.text("123", max_size=3).map(lambda text: "".join(sorted(set(text)))),
    ),
    max_size=4,
)


@generated(GROUPS)
def test_where_all_can_be_kept_on_enough_hosts_nothing_contradicts(
    groups: list[ResolvedGroup],
) -> None:
    """Tried by placing: hosts that no group speaks of are there as well."""
    if _placeable(groups):
        assert conflict(groups) is None


def _placeable(groups: list[ResolvedGroup]) -> bool:
    hosts = ("1", "2", "3", "7", "8", "9", "0")

    def fits(where: dict[str, str]) -> bool:
        for one in groups:
            placed = [where[vm] for vm in one.vms if vm in where]
            if one.together and len(set(placed)) > 1:
                return False
            if one.apart and len(set(placed)) < len(placed):
                return False
            if one.bound and not set(placed) <= set(one.hosts):
                return False
            if one.barred and set(placed) & set(one.hosts):
                return False
        return True

    def place(left: str, where: dict[str, str]) -> bool:
        if not left:
            return True
        return any(
            fits(more) and place(left[1:], more) for more in ({**where, left[0]: h} for h in hosts)
        )

    return place("abcd", {})
