"""The handler decides anew on the newest state, however old what it has at hand is."""

from __future__ import annotations

import msgspec
import pytest

from commands.data_center.create import CreateDataCenter
from commands.data_center.update import UpdateDataCenter
from commands.kernel.command import Context, Decision
from commands.kernel.fold import Loaded, World
from commands.kernel.handler import Accepted, Handler
from commands.kernel.refusal import KeyReusedWithOtherBody, NameTaken
from commands.kernel.testing import ACTOR
from commands.state.data_center import DATA_CENTER
from events.log.port import StoredAnswer
from tests.unit.commands.test_claims import Engine


@pytest.fixture
def engine() -> Engine:
    return Engine()


async def test_a_view_that_lags_costs_one_conflict_and_no_refusal(engine: Engine) -> None:
    """given a view that lags behind for good, when a command rests on it, then it is accepted"""
    data_center = await engine.do(CreateDataCenter(name="Default"))
    log = engine.handler._log
    stream = DATA_CENTER.stream(data_center)
    seen = await Handler(log)._repository.load({stream: DATA_CENTER})
    await engine.do(UpdateDataCenter(id=data_center, description="newer"))

    def lagging(asked: str) -> Loaded | None:
        return seen.get(asked)

    late = Handler(log, known=lagging)
    decided: list[int] = []

    def decide(world: World, context: Context) -> Decision:
        decision = UpdateDataCenter(id=data_center, description="newest").decide(world, context)
        decided.append(world.reads[stream])
        return decision

    accepted = await late.handle(decide, engine.context, principal=ACTOR)
    assert msgspec.json.decode(accepted.answer)["id"] == data_center
    assert decided == [1, 2]


async def test_what_is_reported_is_decided_once_and_appended_only_where_something_follows(
    engine: Engine,
) -> None:
    data_center = await engine.do(CreateDataCenter(name="Default"))
    log = engine.handler._log
    decided = 0

    def decide(world: World, context: Context) -> Decision:
        nonlocal decided
        state = world.get(DATA_CENTER, data_center)
        decided += 1
        if state is None or state.description == "said":
            return Decision(id=data_center)
        return UpdateDataCenter(id=data_center, description="said").decide(world, context)

    first = await engine.handler.take(decide, engine.context, principal=ACTOR, key="1")
    assert first is not None
    assert (first.position, decided) == (await log.head(), 1)
    assert await engine.handler.take(decide, engine.context, principal=ACTOR, key="2") is None
    assert await log.answer(ACTOR, "2") is None
    stranger = Handler(log)  # it knows of nothing yet, and is sent the first one again
    assert await stranger.take(decide, engine.context, principal=ACTOR, key="1") is None
    assert await log.head() == first.position


async def test_a_stored_answer_is_asked_for_only_where_a_command_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = engine.handler._log
    asked: list[str] = []
    answer = log.answer

    async def noted(principal: str, key: str) -> StoredAnswer | None:
        asked.append(key)
        return await answer(principal, key)

    monkeypatch.setattr(log, "answer", noted)
    create = CreateDataCenter(name="Berlin")

    async def handle(key: str, mac: bytes = b"m") -> Accepted:
        return await engine.handler.handle(
            create.decide, engine.context, principal=ACTOR, key=key, body_mac=mac
        )

    first = await handle("1")
    assert (asked, first.repeated) == ([], False)
    again = await handle("1")  # its name is taken, by itself
    assert (again.answer, again.position, again.repeated) == (first.answer, first.position, True)
    with pytest.raises(KeyReusedWithOtherBody):
        await handle("1", b"other")
    with pytest.raises(NameTaken):
        await handle("2")
    assert asked[-1] == "2"
