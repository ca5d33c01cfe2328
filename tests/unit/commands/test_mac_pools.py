"""MAC pools: ranges, what is free, and who may have an address as well."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from commands.cluster.create import CreateCluster
from commands.cluster.remove import RemoveCluster
from commands.cluster.update import UpdateCluster
from commands.gateway.view import GatewayView
from commands.kernel.command import Context
from commands.kernel.refusal import InUse, InvalidField, NameTaken, NotFound, WrongState
from commands.kernel.testing import Given, fresh, given
from commands.mac_pool.create import CreateMacPool
from commands.mac_pool.remove import RemoveMacPool
from commands.mac_pool.update import UpdateMacPool
from commands.state.mac_book import MacBook
from commands.state.mac_input import MacRangeInput
from commands.state.mac_pool import MAC_POOL, MacPoolExhausted
from commands.state.vm import VM
from commands.vm.create import CreateVm, NicInput
from commands.vm.remove import RemoveVm
from events.types import mac_pool as e
from events.types import vm as v
from events.types.cluster import ClusterCreated, ClusterUpdated
from events.types.mac_pool import DEFAULT_POOL, MacRange, PoolLevel
from tests.unit.commands.samples import CLUSTER, DATA_CENTER, NOBODY, place
from tests.unit.policies.stage import Stage

POOL = "00000000-0000-0000-0000-0000000000b1"


def span(first: str, last: str, prefix: str = "02:00:00:00:00:") -> MacRangeInput:
    return MacRangeInput(first=prefix + first, last=prefix + last)


def small(*, duplicates: bool = False, last: str = "03") -> Given:
    """A place whose cluster uses a pool of a few addresses."""
    ranges = (MacRange(first="02:00:00:00:00:00", last=f"02:00:00:00:00:{last}"),)
    pool = e.MacPoolCreated(name="small", ranges=ranges, allow_duplicates=duplicates)
    history = place().and_then((f"mac_pool/{POOL}", pool))
    changed = history.when(UpdateCluster(id=CLUSTER, mac_pool=POOL), hosts_of=lambda _id: ())
    return changed.follows()


class Used:
    """Addresses that are known to be in use."""

    def __init__(self, addresses: Iterable[int]) -> None:
        self.addresses = set(addresses)

    def __contains__(self, address: int) -> bool:
        return address in self.addresses

    def count(self, first: int, last: int) -> int:
        return sum(first <= each <= last for each in self.addresses)


def nics(count: int) -> tuple[NicInput, ...]:
    return tuple(NicInput(bridge="br0") for _ in range(count))


class TestRanges:
    def test_a_pool_keeps_its_ranges_in_order(self) -> None:
        wanted = CreateMacPool(name="west", ranges=(span("80", "ff"), span("00", "0f")))
        created = given().when(wanted).event(e.MacPoolCreated)
        assert [each.bounds for each in created.ranges] == [
            (0x020000000000, 0x02000000000F),
            (0x020000000080, 0x0200000000FF),
        ]

    @pytest.mark.parametrize(
        ("ranges", "word"),
        [
            ((span("0f", "00"),), "ends before it begins"),
            ((span("00", "0f"), span("0f", "1f")), "overlap"),
            (
                (MacRangeInput(first="02:00:00:00:00:00", last="04:00:00:00:00:00"),),
                "multicast",
            ),
            (
                (MacRangeInput(first="02:00:00:00:00:00", last="02:01:00:00:00:00"),),
                "at most",
            ),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, ranges: tuple[MacRangeInput, ...], word: str
    ) -> None:
        given().when(CreateMacPool(name="west", ranges=ranges)).refused(InvalidField, word)
        small().when(UpdateMacPool(id=POOL, ranges=ranges)).refused(InvalidField, word)

    @pytest.mark.parametrize("first", ["01:00:00:00:00:00", "02:00:00:00:00", "02-00-00-00-00-00"])
    def test_group_addresses_and_other_spellings_do_not_come_in(self, first: str) -> None:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"first": first, "last": "02:00:00:00:00:ff"}, MacRangeInput)


class TestAddresses:
    def test_each_nic_gets_one_that_is_free(self) -> None:
        used = Used([0x020000000001, 0x020000000002])
        when = small().when(CreateVm(name="a", cluster=CLUSTER, nics=nics(2)), macs=used)
        made = [nic.mac for nic in when.event(v.VmCreated).configuration.nics]
        assert sorted(made) == ["02:00:00:00:00:00", "02:00:00:00:00:03"]

    def test_one_that_the_admin_gives_is_not_given_to_another_nic(self) -> None:
        wanted = (NicInput(bridge="br0"), NicInput(bridge="br0", mac="02:00:00:00:00:01"))
        when = small().when(CreateVm(name="a", cluster=CLUSTER, nics=wanted), randoms=(1, 2))
        made = [nic.mac for nic in when.event(v.VmCreated).configuration.nics]
        assert made == ["02:00:00:00:00:02", "02:00:00:00:00:01"]

    def test_ones_that_others_turned_out_to_have_are_passed_over(self) -> None:
        when = small().when(
            CreateVm(name="a", cluster=CLUSTER, nics=nics(1)),
            randoms=(3,),
            macs_refused=("02:00:00:00:00:03", "02:00:00:00:00:00"),
        )
        assert when.event(v.VmCreated).configuration.nics[0].mac == "02:00:00:00:00:01"

    def test_the_whole_pool_is_searched_from_anywhere(self) -> None:
        ranges = (span("00", "01"), span("10", "10"), span("20", "22"))
        history = small().when(UpdateMacPool(id=POOL, ranges=ranges)).follows()
        whole = {0, 1, 0x10, 0x20, 0x21, 0x22}
        for free in whole:
            used = Used(0x020000000000 + each for each in whole - {free})
            for start in range(7):
                when = history.when(
                    CreateVm(name="a", cluster=CLUSTER, nics=nics(1)), macs=used, randoms=(start,)
                )
                made = when.event(v.VmCreated).configuration.nics[0].mac
                assert made == f"02:00:00:00:00:{free:02x}"

    def test_an_empty_pool_refuses_and_says_what_can_be_done(self) -> None:
        when = small().when(CreateVm(name="a", cluster=CLUSTER, nics=nics(5)))
        when.refused(MacPoolExhausted, "small", "another range", "cluster update")
        small().when(CreateVm(name="a", cluster=CLUSTER)).event(v.VmCreated)
        own = (NicInput(bridge="br0", mac="06:00:00:00:00:01"),)
        used = Used(range(0x020000000000, 0x020000000004))
        small().when(CreateVm(name="a", cluster=CLUSTER, nics=own), macs=used).event(v.VmCreated)

    def test_a_cluster_without_a_pool_uses_the_default_also_before_it_is_written_down(self) -> None:
        when = place().when(CreateVm(name="a", cluster=CLUSTER, nics=nics(1)), randoms=(0x10203,))
        created = when.event(v.VmCreated)
        assert created.configuration.nics[0].mac == "56:6f:1a:01:02:03"
        assert not created.macs_shared
        assert len(when.events) == 1


class TestLevels:
    def test_few_addresses_left_and_none_are_told_once(self) -> None:
        history = small(last="0b")  # twelve

        def make(number: int, used: int, count: int) -> tuple[object, ...]:
            nonlocal history
            when = history.when(
                CreateVm(name=f"vm{number}", cluster=CLUSTER, nics=nics(count)),
                macs=Used(range(0x020000000000, 0x020000000000 + used)),
            )
            history = when.follows()
            return tuple(event for event in when.events if not isinstance(event, v.VmCreated))

        assert make(1, 0, 2) == ()
        assert make(2, 2, 1) == (e.MacPoolAlmostEmpty(name="small", left=9),)
        assert make(3, 3, 1) == ()
        assert make(4, 11, 1) == (e.MacPoolEmpty(name="small"),)
        assert make(5, 3, 1) == (e.MacPoolAlmostEmpty(name="small", left=8),)
        assert make(6, 1, 1) == (e.MacPoolRefilled(name="small"),)

    def test_another_range_ends_the_alert(self) -> None:
        history = small().and_then((f"mac_pool/{POOL}", e.MacPoolEmpty(name="small")))
        when = history.when(UpdateMacPool(id=POOL, ranges=(span("00", "ff"),)))
        assert when.event(e.MacPoolRefilled) == e.MacPoolRefilled(name="small")
        state = when.follows().state(MAC_POOL, POOL)
        assert state is not None
        assert state.level is PoolLevel.ENOUGH


class TestPools:
    def test_what_is_not_given_stays(self) -> None:
        changed = small().when(UpdateMacPool(id=POOL, allow_duplicates=True))
        updated = changed.event(e.MacPoolUpdated)
        assert (updated.name, updated.allow_duplicates, len(updated.ranges)) == ("small", True, 1)
        changed.follows().when(UpdateMacPool(id=POOL, allow_duplicates=True)).then_nothing()

    def test_the_default_pool_is_not_removed(self) -> None:
        ranges = (MacRange(first="02:00:00:00:00:00", last="02:00:00:00:00:ff"),)
        history = given((f"mac_pool/{DEFAULT_POOL}", e.MacPoolCreated(name="D", ranges=ranges)))
        history.when(RemoveMacPool(id=DEFAULT_POOL)).refused(WrongState, "default", "ranges")

    def test_what_is_gone_is_not_found(self) -> None:
        gone = place().and_then((f"mac_pool/{POOL}", e.MacPoolRemoved(name="small")))
        for history in (place(), gone):
            history.when(RemoveMacPool(id=POOL)).refused(NotFound, POOL)
            history.when(UpdateMacPool(id=POOL)).refused(NotFound, POOL)
            history.when(UpdateCluster(id=CLUSTER, mac_pool=POOL)).refused(NotFound, POOL)
        place().when(CreateCluster(name="x", data_center=DATA_CENTER, mac_pool=NOBODY)).refused(
            NotFound, NOBODY
        )

    def test_a_cluster_goes_back_to_the_default_by_its_id(self) -> None:
        when = small().when(
            UpdateCluster(id=CLUSTER, mac_pool=DEFAULT_POOL), hosts_of=lambda _id: ()
        )
        updated = when.event(ClusterUpdated)
        assert (updated.mac_pool, updated.previous_mac_pool) == (None, POOL)
        made = place().when(CreateCluster(name="x", data_center=DATA_CENTER, mac_pool=DEFAULT_POOL))
        assert made.event(ClusterCreated).mac_pool is None


def knowing(stage: Stage, view: GatewayView) -> None:
    """Let decisions know the addresses that a view knows, as the engine's do."""
    plain = stage.context

    def context(actor: str = "admin:test") -> Context:
        return msgspec.structs.replace(plain(actor), macs=view.macs)

    stage.context = context  # type: ignore[method-assign]


async def a_stage(*, duplicates: bool = False, last: str = "03") -> tuple[Stage, str]:
    """A data center whose cluster uses a pool of four addresses."""
    stage = Stage()
    await stage.open()
    pool = await stage.do(
        CreateMacPool(name="small", ranges=(span("00", last),), allow_duplicates=duplicates)
    )
    await stage.do(UpdateCluster(id=stage.cluster, mac_pool=pool))
    return stage, pool


async def center_of(stage: Stage) -> str:
    """The data center of the stage's cluster."""
    (created,) = [
        recorded.event
        for recorded in await stage.history()
        if isinstance(recorded.event, ClusterCreated) and recorded.object_id == stage.cluster
    ]
    return created.data_center


class TestInTheLog:
    async def test_no_two_vms_get_one_though_nothing_is_known_of_others(self) -> None:
        # given engines that know of no address in use (their view lags for ever)
        stage, _pool = await a_stage(last="ff")

        # when
        made = [
            await stage.do(CreateVm(name=f"vm{n}", cluster=stage.cluster, nics=nics(1)))
            for n in range(40)
        ]

        # then the claims have kept them apart
        macs = [(await stage.vm(vm)).configuration.nics[0].mac for vm in made]
        assert len(set(macs)) == 40

    async def test_an_address_that_is_given_twice_is_refused_by_its_holder(self) -> None:
        stage, _pool = await a_stage()
        wanted = (NicInput(bridge="br0", mac="06:00:00:00:00:01"),)
        first = await stage.do(CreateVm(name="a", cluster=stage.cluster, nics=wanted))
        with pytest.raises(InUse, match=f"06:00:00:00:00:01 is in use by vm/{first}"):
            await stage.do(CreateVm(name="b", cluster=stage.cluster, nics=wanted))

    async def test_a_pool_may_allow_it_for_its_own(self) -> None:
        stage, pool = await a_stage(duplicates=True)
        wanted = (NicInput(bridge="br0", mac="06:00:00:00:00:01"),)
        for name in ("a", "b", "c"):
            await stage.do(CreateVm(name=name, cluster=stage.cluster, nics=wanted))

        # a VM of another pool does not get an address that is shared, nor the other way round
        center = await center_of(stage)
        other = await stage.do(CreateCluster(name="other", data_center=center))
        with pytest.raises(InUse):
            await stage.do(CreateVm(name="d", cluster=other, nics=wanted))
        alone = (NicInput(bridge="br0", mac="06:00:00:00:00:02"),)
        await stage.do(CreateVm(name="e", cluster=other, nics=alone))
        with pytest.raises(InUse):
            await stage.do(CreateVm(name="f", cluster=stage.cluster, nics=alone))

        # and once the pool does not allow it any more, what is shared is nobody else's
        await stage.do(UpdateMacPool(id=pool, allow_duplicates=False))
        with pytest.raises(InUse):
            await stage.do(CreateVm(name="g", cluster=stage.cluster, nics=wanted))

    async def test_a_removed_vms_address_is_free_again(self) -> None:
        stage, _pool = await a_stage(last="00")
        view = await stage.view()
        knowing(stage, view)
        first = await stage.do(CreateVm(name="a", cluster=stage.cluster, nics=nics(1)))
        for recorded in (await stage.history())[view.position :]:
            view.take(recorded)
        with pytest.raises(MacPoolExhausted):
            await stage.do(CreateVm(name="b", cluster=stage.cluster, nics=nics(1)))
        await stage.do(RemoveVm(id=first))
        for recorded in (await stage.history())[view.position :]:
            view.take(recorded)
        again = await stage.do(CreateVm(name="b", cluster=stage.cluster, nics=nics(1)))
        assert (await stage.vm(again)).configuration.nics[0].mac == "02:00:00:00:00:00"

    async def test_a_pool_that_a_cluster_uses_is_not_removed(self) -> None:
        stage, pool = await a_stage()
        with pytest.raises(InUse, match="cluster/"):
            await stage.do(RemoveMacPool(id=pool))
        await stage.do(UpdateCluster(id=stage.cluster, mac_pool=DEFAULT_POOL))
        other = await stage.do(
            CreateCluster(name="x", data_center=await center_of(stage), mac_pool=pool)
        )
        with pytest.raises(InUse, match="cluster/"):
            await stage.do(RemoveMacPool(id=pool))
        await stage.do(RemoveCluster(id=other))
        await stage.do(RemoveMacPool(id=pool))
        await stage.do(CreateMacPool(name="small", ranges=(span("00", "01"),)))
        with pytest.raises(NameTaken):
            await stage.do(CreateMacPool(name="SMALL", ranges=(span("00", "01"),)))


class TestMacBook:
    def test_it_agrees_with_a_simple_count(self) -> None:
        book = MacBook()
        alive: dict[str, list[int]] = {}
        for number in range(200):
            command = CreateVm(name=f"vm{number}", cluster=CLUSTER, nics=nics(2))
            randoms = (number * 7919 % 300, number * 104_729 % 300)
            when = place().when(command, randoms=randoms)
            created = when.event(v.VmCreated)
            state = when.follows().state(VM, fresh())
            book.take(None, state)
            alive[created.name] = [e.number(nic.mac) for nic in created.configuration.nics]
            if number % 3 == 0:
                assert state is not None
                book.take(state, None)
                del alive[created.name]
            held = {each for macs in alive.values() for each in macs}
            first, last = 0x566F1A000000 + number % 50, 0x566F1A000000 + 150
            assert book.count(first, last) == sum(first <= each <= last for each in held)
            assert all(each in book for each in held)
