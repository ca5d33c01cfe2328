"""What the log settles between objects, by the events' claims: names, addresses, references."""

from __future__ import annotations

import uuid

import msgspec
import pytest

from commands.cluster.create import CreateCluster
from commands.cluster.remove import RemoveCluster
from commands.cluster.update import UpdateCluster
from commands.data_center.create import CreateDataCenter
from commands.data_center.remove import RemoveDataCenter
from commands.data_center.update import UpdateDataCenter
from commands.host.add import AddHost
from commands.host.remove import RemoveHost
from commands.kernel.command import Command, Context
from commands.kernel.handler import Accepted, Handler
from commands.kernel.refusal import InUse, KeyReusedWithOtherBody, NameTaken
from commands.kernel.testing import ACTOR, NOW
from commands.vm.create import CreateVm, NicInput
from commands.vm.remove import RemoveVm
from commands.vm.update import UpdateVm
from events.log.memory import MemoryLog

MAC = "56:6f:1a:00:00:aa"


class Engine:
    """A handler over a log in memory; ids are counted, random numbers given."""

    def __init__(self) -> None:
        self.handler = Handler(MemoryLog())
        self.randoms = [1]
        self._count = 0

    def context(self) -> Context:
        self._count += 1
        number = self.randoms.pop(0) if len(self.randoms) > 1 else self.randoms[0]
        return Context(
            command=uuid.UUID(int=self._count),
            time=NOW,
            actor=ACTOR,
            ids=tuple(str(uuid.UUID(int=self._count * 1_000 + n)) for n in range(9)),
            randoms=(number,) * 4,
            hosts_of=lambda _cluster: (),
        )

    async def send(self, command: Command, key: str | None = None, mac: bytes = b"") -> Accepted:
        return await self.handler.handle(
            command.decide, self.context, principal=ACTOR, key=key, body_mac=mac
        )

    async def do(self, command: Command) -> str:
        return str(msgspec.json.decode((await self.send(command)).answer)["id"])


@pytest.fixture
def engine() -> Engine:
    return Engine()


async def test_names_differ_by_more_than_case(engine: Engine) -> None:
    await engine.do(CreateDataCenter(name="Prague"))
    with pytest.raises(NameTaken, match="prague"):
        await engine.do(CreateDataCenter(name="PRAGUE"))


async def test_a_name_is_free_again_after_a_rename_and_after_a_removal(engine: Engine) -> None:
    first = await engine.do(CreateDataCenter(name="Prague"))
    await engine.do(UpdateDataCenter(id=first, name="Brno"))
    second = await engine.do(CreateDataCenter(name="Prague"))
    await engine.do(RemoveDataCenter(id=second))
    await engine.do(UpdateDataCenter(id=first, name="PRAGUE"))
    await engine.do(UpdateDataCenter(id=first, name="Prague"))


async def test_a_cluster_cannot_take_the_name_of_another_in_its_data_center(
    engine: Engine,
) -> None:
    centers = [await engine.do(CreateDataCenter(name=name)) for name in ("a", "b")]
    first = await engine.do(CreateCluster(name="West", data_center=centers[0]))
    second = await engine.do(CreateCluster(name="East", data_center=centers[0]))
    with pytest.raises(NameTaken, match="west"):
        await engine.do(UpdateCluster(id=second, name="WEST"))
    await engine.do(UpdateCluster(id=first, name="WEST"))
    await engine.do(UpdateCluster(id=first, name="North"))
    await engine.do(UpdateCluster(id=second, name="West"))
    await engine.do(CreateCluster(name="West", data_center=centers[1]))
    await engine.do(RemoveCluster(id=first))
    await engine.do(CreateCluster(name="North", data_center=centers[0]))


async def test_names_of_vms_are_unique_within_a_data_center(engine: Engine) -> None:
    clusters = []
    for name in ("a", "b"):
        data_center = await engine.do(CreateDataCenter(name=name))
        clusters.append(await engine.do(CreateCluster(name="c", data_center=data_center)))
    await engine.do(CreateVm(name="web01", cluster=clusters[0]))
    await engine.do(CreateVm(name="web01", cluster=clusters[1]))
    with pytest.raises(NameTaken, match="Another vm has the name web01"):
        await engine.do(CreateVm(name="WEB01", cluster=clusters[0]))


async def test_a_vm_cannot_take_the_name_of_another(engine: Engine) -> None:
    data_center = await engine.do(CreateDataCenter(name="a"))
    cluster = await engine.do(CreateCluster(name="c", data_center=data_center))
    await engine.do(CreateVm(name="web01", cluster=cluster))
    other = await engine.do(CreateVm(name="web02", cluster=cluster))
    with pytest.raises(NameTaken):
        await engine.do(UpdateVm(id=other, name="web01"))


async def test_what_holds_something_is_not_removed(engine: Engine) -> None:
    data_center = await engine.do(CreateDataCenter(name="a"))
    cluster = await engine.do(CreateCluster(name="c", data_center=data_center))
    host = await engine.do(AddHost(name="kvm01", cluster=cluster))
    vm = await engine.do(CreateVm(name="web01", cluster=cluster))
    with pytest.raises(InUse, match=f"cluster/{cluster}"):
        await engine.do(RemoveDataCenter(id=data_center))
    for remove in (RemoveHost(id=host), RemoveVm(id=vm)):
        with pytest.raises(InUse):
            await engine.do(RemoveCluster(id=cluster))
        await engine.do(remove)
    await engine.do(RemoveCluster(id=cluster))
    await engine.do(RemoveDataCenter(id=data_center))


async def test_a_mac_address_that_was_given_is_refused_where_it_is_in_use(engine: Engine) -> None:
    data_center = await engine.do(CreateDataCenter(name="a"))
    cluster = await engine.do(CreateCluster(name="c", data_center=data_center))
    nics = (NicInput(bridge="br0", mac=MAC),)
    vm = await engine.do(CreateVm(name="web01", cluster=cluster, nics=nics))
    with pytest.raises(InUse, match=MAC):
        await engine.do(CreateVm(name="web02", cluster=cluster, nics=nics))
    await engine.do(RemoveVm(id=vm))
    await engine.do(CreateVm(name="web02", cluster=cluster, nics=nics))


async def test_a_mac_address_that_was_drawn_is_drawn_again(engine: Engine) -> None:
    data_center = await engine.do(CreateDataCenter(name="a"))
    cluster = await engine.do(CreateCluster(name="c", data_center=data_center))
    nics = (NicInput(bridge="br0"),)
    await engine.do(CreateVm(name="web01", cluster=cluster, nics=nics))
    engine.randoms = [1, 2]
    await engine.do(CreateVm(name="web02", cluster=cluster, nics=nics))


async def test_a_key_gives_the_same_answer_and_takes_no_other_body(engine: Engine) -> None:
    command = CreateDataCenter(name="Prague")
    first = await engine.send(command, "k", b"one")
    again = await engine.send(command, "k", b"one")
    assert (again.answer, again.position) == (first.answer, first.position)
    assert (first.repeated, again.repeated) == (False, True)
    with pytest.raises(KeyReusedWithOtherBody):
        await engine.send(CreateDataCenter(name="Brno"), "k", b"other")


async def test_a_refusal_is_not_kept_under_a_key(engine: Engine) -> None:
    first = await engine.do(CreateDataCenter(name="Prague"))
    with pytest.raises(NameTaken):
        await engine.send(CreateDataCenter(name="Prague"), "k", b"one")
    await engine.do(RemoveDataCenter(id=first))
    accepted = await engine.send(CreateDataCenter(name="Prague"), "k", b"one")
    assert not accepted.repeated
