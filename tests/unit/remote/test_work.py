"""Carrying an order out: what is appended, whatever goes wrong, and by whom it may be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from chronovisor.contexts import small_context
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.handler import Handler
from commands.remote import work as work_module
from commands.remote.book import Book, SupersededError
from commands.remote.machine import LoginRefusedError, Output, SshError, sentences
from commands.remote.steps import Plan, Site, Step
from commands.remote.work import Work
from commands.state.host import HOST, HostState
from events.codec import CODEC
from events.log.memory import MemoryLog
from events.types import host_ssh as e
from events.types.base import Event
from events.types.host import HostAdded, HostJoinRequested
from events.types.host_ssh import SshTask

HOST_ID = "00000000-0000-0000-0000-0000000000f1"
ORDER = "00000000-0000-0000-0000-00000000000a"
STREAM = f"host/{HOST_ID}"


class Stage:
    """A host with an order, and a machine on which steps do what the test says."""

    def __init__(self, task: SshTask = SshTask.INSTALL) -> None:
        self.log = MemoryLog()
        self.handler = Handler(self.log)
        self.task = task
        self.told: list[str] = []
        self.fails: dict[str, list[BaseException]] = {}
        self.logins = 0

    async def open(self) -> None:
        await self.append(
            HostAdded(name="kvm01", cluster="c", data_center="d"),
            e.HostSshOrdered(name="kvm01", order=ORDER, task=self.task, address="192.0.2.7"),
        )

    async def append(self, *events: Event) -> None:
        def decide(world: World, context: Context) -> Decision:
            world.get(HOST, HOST_ID)
            return Decision(id=HOST_ID, events=on(STREAM, *events))

        await self.handler.handle(decide, lambda: small_context("test"), principal="test")

    def book(self, worker: str = "w1") -> Book:
        source = lambda: small_context("ssh")  # noqa: E731
        return Book(self.handler, source, lambda token: f"h({token})", HOST_ID, ORDER, worker)

    async def carry_out(self, book: Book) -> None:
        await book.begin()
        state = await book.state()
        assert state.ssh.order is not None
        await Work(book, state, state.ssh.order, self._site, retry_s=0).run()

    @contextlib.asynccontextmanager
    async def _site(self) -> AsyncIterator[Site]:
        self.logins += 1
        await self._do("login")
        site = FakeSite(self)
        yield site

    async def _do(self, what: str) -> str:
        await asyncio.sleep(0)
        self.told.append(what)
        if self.fails.get(what):
            raise self.fails[what].pop(0)
        return f"It did {what}."

    def step(self, name: str, *, undone: bool = True) -> Step:
        return Step(
            name=name,
            begins="",
            do=lambda _site: self._do(name),
            undo=(lambda _site: self._do(f"undo {name}")) if undone else None,
        )

    def plan(self, *, undoes: bool = True, leaves: bool = False) -> Plan:
        return Plan(
            undoes=undoes,
            leaves=leaves,
            steps=(
                self.step("connect", undone=False),
                self.step("packages"),
                self.step("join"),
            ),
        )

    async def events(self) -> list[Event]:
        return [CODEC.decode(stored).event for stored in await self.log.read(0, 1_000)]

    async def ending(self) -> e.HostSshEnded:
        (ended,) = [one for one in await self.events() if isinstance(one, e.HostSshEnded)]
        return ended

    async def state(self) -> HostState:
        state = None
        for stored in await self.log.read(0, 1_000):
            state = HOST.evolve(state, CODEC.decode(stored))
        assert state is not None
        return state


class FakeSite(Site):
    """A machine of which nothing is known but what it was told to do."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.greeting = "Logged in."

    async def forget(self) -> None:
        await self._stage._do("forget")


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return await opened(monkeypatch, SshTask.INSTALL)


async def opened(
    monkeypatch: pytest.MonkeyPatch, task: SshTask, *, undoes: bool = True, leaves: bool = False
) -> Stage:
    stage = Stage(task)
    await stage.open()
    monkeypatch.setattr(work_module, "PLANS", {task: stage.plan(undoes=undoes, leaves=leaves)})
    return stage


async def test_each_step_is_told_when_it_begins_and_when_it_is_done(stage: Stage) -> None:
    await stage.carry_out(stage.book())
    assert stage.told == ["login", "packages", "join"]
    steps = [(one.step, one.done) for one in await stage.events() if isinstance(one, e.HostSshStep)]
    assert steps == [
        (name, done) for name in ("connect", "packages", "join") for done in (False, True)
    ]
    assert (await stage.ending()).succeeded
    assert (await stage.state()).ssh.order is None


async def test_a_lost_connection_is_made_again(stage: Stage) -> None:
    stage.fails = {"join": [SshError("gone", lost=True)], "login": []}
    await stage.carry_out(stage.book())
    assert stage.told == ["login", "packages", "join", "login", "packages", "join"]
    assert (await stage.ending()).succeeded
    done = [one for one in await stage.events() if isinstance(one, e.HostSshStep) and one.done]
    assert len(done) == 3


async def test_a_step_that_fails_takes_back_what_was_done_newest_first(stage: Stage) -> None:
    stage.fails = {"join": [SshError("It would not.")]}
    await stage.carry_out(stage.book())
    assert stage.told[3:] == ["login", "undo join", "undo packages", "forget"]
    ending = await stage.ending()
    assert (ending.succeeded, ending.reason, ending.left) == (False, "It would not.", "")


async def test_what_nobody_foresaw_is_a_failure_that_people_see(stage: Stage) -> None:
    stage.fails = {"join": [ZeroDivisionError("of course")]}
    await stage.carry_out(stage.book())
    assert "undo packages" in stage.told
    assert "ZeroDivisionError: of course" in (await stage.ending()).reason


async def test_where_nothing_was_changed_nothing_is_undone(stage: Stage) -> None:
    stage.fails = {"login": [LoginRefusedError("No.")]}
    await stage.carry_out(stage.book())
    assert stage.told == ["login"]
    assert (await stage.ending()).reason == "No."


async def test_what_could_not_be_taken_back_is_said(stage: Stage) -> None:
    stage.fails = {
        "join": [SshError("It would not.")],
        "undo packages": [SshError("gone", lost=True)] * work_module.UNDO_ATTEMPTS_MAX,
    }
    await stage.carry_out(stage.book())
    ending = await stage.ending()
    assert "could not be taken back: gone" in ending.left
    assert not ending.succeeded


async def test_a_cancellation_stops_before_the_next_step_and_undoes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = stage.book()

    async def cancel(_site: Site) -> str:
        await stage.append(e.HostSshCancelRequested(order=ORDER))
        return "Done, while it was cancelled."

    first, packages, join = stage.plan().steps
    cancelling = Step(name="packages", begins="", do=cancel, undo=packages.undo)
    plan = Plan(undoes=True, steps=(first, cancelling, join))
    monkeypatch.setattr(work_module, "PLANS", {SshTask.INSTALL: plan})
    await stage.carry_out(book)
    assert "join" not in stage.told
    assert "undo packages" in stage.told
    assert (await stage.ending()).cancelled


async def test_a_worker_that_was_superseded_appends_nothing(stage: Stage) -> None:
    old, new = stage.book("w1"), stage.book("w2")
    await old.begin()
    await new.begin()
    head = await stage.log.head()
    with pytest.raises(SupersededError):
        await old.write(lambda _state, order: e.HostSshCancelRequested(order=order.order))
    with pytest.raises(SupersededError):
        await old.issue_token()
    assert await stage.log.head() == head


async def test_another_worker_goes_on_and_tells_nothing_twice(stage: Stage) -> None:
    stage.fails = {"join": [SshError("It would not.")], "undo packages": [Died("killed")]}
    with pytest.raises(Died):
        await stage.carry_out(stage.book("w1"))
    await stage.carry_out(stage.book("w2"))
    undone = [
        one.step for one in await stage.events() if isinstance(one, e.HostSshStep) and one.undo
    ]
    assert undone == ["join", "packages"]
    assert (await stage.ending()).reason == "It would not."
    with pytest.raises(SupersededError):
        await stage.book("w3").begin()


class Died(BaseException):
    """The worker's process is gone."""


@pytest.mark.parametrize("fails", ["packages", "login"])
async def test_half_a_step_of_a_worker_that_died_is_undone_though_another_step_fails_then(
    stage: Stage, fails: str
) -> None:
    """given a worker that died in a step, when the next one fails before it, both are undone"""
    stage.fails["join"] = [Died()]
    with pytest.raises(Died):
        await stage.carry_out(stage.book("w1"))
    stage.told.clear()
    stage.fails[fails] = [SshError("It is different now.")]

    await stage.carry_out(stage.book("w2"))

    undone = [told for told in stage.told if told.startswith("undo")]
    assert undone == ["undo join", "undo packages"]
    assert not (await stage.ending()).succeeded


async def test_an_uninstallation_that_locked_itself_out_has_succeeded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = await opened(monkeypatch, SshTask.UNINSTALL, undoes=False, leaves=True)
    stage.fails = {"join": [Died("killed")]}
    with pytest.raises(Died):
        await stage.carry_out(stage.book("w1"))
    stage.fails = {"login": [LoginRefusedError("The key is not let in.")]}
    await stage.carry_out(stage.book("w2"))
    assert (await stage.ending()).succeeded


async def test_an_uninstallation_that_is_not_let_in_at_first_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = await opened(monkeypatch, SshTask.UNINSTALL, undoes=False, leaves=True)
    stage.fails = {"login": [LoginRefusedError("The key is not let in.")]}
    await stage.carry_out(stage.book())
    assert not (await stage.ending()).succeeded


async def test_only_the_machine_that_showed_the_workers_token_is_let_in(stage: Stage) -> None:
    book = stage.book()
    await book.begin()
    token = await book.issue_token()
    assert not await book.approve(token)
    joined = HostJoinRequested(
        name="kvm01", token="another", public_key_sha256="k", hardware="h", signing_request="r"
    )
    await stage.append(joined)
    assert not await book.approve(token)
    assert not (await stage.state()).approved
    await stage.append(
        HostJoinRequested(
            name="kvm01", token=token, public_key_sha256="k2", hardware="h", signing_request="r"
        )
    )
    assert await book.approve(token)
    assert (await stage.state()).approved


def test_a_script_says_what_people_read() -> None:
    good = Output(status=0, out="noise\nTEXT All is there.\n", err="warning\n")
    assert sentences(good)[0] == "All is there."
    bad = Output(status=1, out="", err="+ tar\nFAIL The disk is full.\nmore\n")
    assert sentences(bad)[1] == "The disk is full."
    mute = Output(status=124, out="", err="")
    assert sentences(mute)[1] == "It ended with 124."
