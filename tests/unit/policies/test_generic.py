"""What holds for every saga, at every point (contract B): each test runs over all plays."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from pathlib import Path

import pytest

from commands.catalogue import COMMANDS
from commands.host.confirm_off import ConfirmHostOff
from commands.kernel.refusal import Refusal
from commands.operation.cancel import CancelOperation
from commands.policies import host_fence
from commands.policies.catalogue import SAGAS
from commands.state.host import HostStatus
from commands.state.ssh_work import INSTALL_STEPS, UNINSTALL_STEPS
from commands.state.vm_availability import RESTART_KINDS
from commands.vm.stop import StopVm
from events.envelope import Recorded
from events.types.operation import Outcome
from tests.unit.policies.plays import PLAYS, Begun, Play, begin
from tests.unit.policies.puppet import (
    SETTLED,
    answers,
    check,
    copied,
    cuts,
    hosts_of,
    operations,
    play_on,
    vms,
)
from tests.unit.policies.puppet_ssh import KINDS as OVER_SSH
from tests.unit.policies.stage import Stage

FILES_ONLY = frozenset({"vm.create", "vm.remove"})
"""Sagas that wait for files on a host: a proof that its machine is off does not end that."""
WAITS_FOR_ROOM = frozenset(RESTART_KINDS.values())
"""Sagas that wait until a host can take their VM, however long that takes."""
TURNS_ON = frozenset({"host.fence"})
"""The saga that goes on to turn a host on again which is proved to be off."""
each_play = pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.name)


def by_stream(history: list[Recorded]) -> dict[str, list[str]]:
    """Return the names of the events of each stream, but for those of the policies' elections."""
    names: dict[str, list[str]] = defaultdict(list)
    for recorded in history:
        if recorded.kind != "policy":
            names[recorded.stream].append(recorded.name)
    return names


async def finished(play: Play) -> Begun:
    """Play a saga to its good end."""
    played = await begin(play)
    await play_on(played.stage)
    return played


async def require_settled(stage: Stage) -> None:
    """Require that nothing goes on any more."""
    await check(stage)
    assert [op for op in (await operations(stage)).values() if op.open] == []
    assert [vm.status for vm in (await vms(stage)).values() if vm.status not in SETTLED] == []


def test_every_saga_has_a_play() -> None:
    assert {play.kind for play in PLAYS} == set(SAGAS)


def test_every_command_begins_a_saga_with_that_sagas_steps() -> None:
    assert COMMANDS
    begun = {}
    for path in Path("commands").glob("*/*.py"):
        for found in re.findall(r"\bbegin\((.*?)\n\s*\)", path.read_text(), flags=re.DOTALL):
            call = found
            for word, names in (("INSTALL", INSTALL_STEPS), ("UNINSTALL", UNINSTALL_STEPS)):
                call = call.replace(f"*{word}_STEPS", str(names).replace("'", '"'))
            words = [word for word in re.findall(r'"([a-z_.]+)"', call) if not word.endswith("/")]
            if words:
                begun[words[0], path.name] = tuple(words[1:])
    by_its_table = {host_fence.KIND} | WAITS_FOR_ROOM
    assert {kind for kind, _file in begun} | by_its_table == set(SAGAS)
    for (kind, file), steps in begun.items():
        assert steps == tuple(step.name for step in SAGAS[kind].steps), file


@each_play
async def test_it_comes_to_its_end_by_the_steps_of_its_table(play: Play) -> None:
    played = await finished(play)
    await require_settled(played.stage)
    operation = await played.stage.op(played.operation)
    assert operation.kind == play.kind
    assert operation.outcome is Outcome.SUCCEEDED
    table = [step.name for step in SAGAS[play.kind].steps]
    named = [
        getattr(recorded.event, "step", None)
        for recorded in await played.stage.history()
        if recorded.stream == f"operation/{played.operation}"
    ]
    assert [step for step in named if step is not None and step not in table] == []
    assert list(operation.steps) == table
    assert operation.timers == {}


@each_play
async def test_a_move_is_made_once(play: Play) -> None:
    """given any point, when asked again by this process and by another, then nothing happens"""
    played = await finished(play)
    for cut in await cuts(played.stage.log, played.begun):
        stage = await copied(played.stage, cut)
        await stage.settle()
        head = await stage.log.head()
        await stage.settle()
        assert await stage.log.head() == head
        another = stage.new_runner("another")
        await another.begin()
        await another.turn()
        assert (await stage.names(head)) == ["policy.elected"]


@each_play
async def test_a_policies_process_that_dies_after_any_append_is_carried_on(play: Play) -> None:
    """given the log up to any append, when a new process goes on, then the log ends the same"""
    played = await finished(play)
    wanted = by_stream(await played.stage.history())
    for cut in await cuts(played.stage.log, played.begun):
        stage = await copied(played.stage, cut)
        await check_after_settling(stage)
        await play_on(stage)
        assert by_stream(await stage.history()) == wanted, f"from position {cut} on"
        await require_settled(stage)


async def check_after_settling(stage: Stage) -> None:
    await stage.settle()
    await check(stage)


@pytest.mark.parametrize(
    "play", [play for play in PLAYS if play.fails_by], ids=lambda play: play.name
)
async def test_a_step_that_fails_ends_it_with_the_reason(play: Play) -> None:
    assert play.fails_by is not None
    played = await begin(play)
    stage = played.stage
    await play_on(stage, failing={play.fails_by})
    for _again in range(2):
        await stage.pass_time(61)
        await play_on(stage, failing={play.fails_by})
    if play.failed is Outcome.SUCCEEDED:
        await check(stage)
        assert (await stage.op(played.operation)).attention
        await stage.pass_time(61)
        await play_on(stage)
    operation = await stage.op(played.operation)
    assert operation.outcome is play.failed
    assert operation.outcome is Outcome.SUCCEEDED or operation.reason
    await require_settled(stage)


@each_play
async def test_it_can_be_cancelled_at_every_point_or_says_that_it_cannot(play: Play) -> None:
    played = await finished(play)
    outcomes = set()
    for cut in await cuts(played.stage.log, played.begun):
        stage = await copied(played.stage, cut)
        if (await stage.op(played.operation)).outcome is not None:
            continue
        try:
            await stage.do(CancelOperation(id=played.operation))
        except Refusal:
            assert not any(step.cancellable for step in SAGAS[play.kind].steps)
            continue
        await check_after_settling(stage)
        await play_on(stage)
        outcomes.add((await stage.op(played.operation)).outcome)
        await require_settled(stage)
    assert outcomes <= {Outcome.CANCELLED, Outcome.SUCCEEDED}
    if any(step.cancellable for step in SAGAS[play.kind].steps):
        assert Outcome.CANCELLED in outcomes


@each_play
async def test_undoing_it_twice_changes_nothing(play: Play) -> None:
    """given a cancelled operation, when hosts say twice what they said, then it happened once"""
    played = await finished(play)
    for cut in await cuts(played.stage.log, played.begun):
        stage = await copied(played.stage, cut)
        with contextlib.suppress(Refusal):
            await stage.do(CancelOperation(id=played.operation))
        await stage.settle()
        again = []
        for host in await hosts_of(stage):
            items = await answers(stage, host)
            await stage.report(host, *items)
            again.append((host, items))
        head = await stage.log.head()
        for host, items in again:
            await stage.report(host, *items)
        assert [n for n in await stage.names(head) if n != "vm.rebooted"] == []


@each_play
async def test_a_power_off_wins_at_every_point(play: Play) -> None:
    played = await finished(play)
    for cut in await cuts(played.stage.log, played.begun):
        stage = await copied(played.stage, cut)
        target = (await stage.op(played.operation)).target
        if not target.startswith("vm/"):
            return
        try:
            await stage.do(StopVm(id=target.removeprefix("vm/")))
        except Refusal:
            continue
        stopped = stage.operation
        await check_after_settling(stage)
        await play_on(stage)
        if stopped is not None:
            assert (await stage.op(stopped)).outcome is Outcome.SUCCEEDED
        vm = await stage.vm(target.removeprefix("vm/"))
        assert vm.run is None
        await require_settled(stage)


@each_play
async def test_it_waits_visibly_for_a_silent_host_and_goes_on_when_it_answers(play: Play) -> None:
    played = await finished(play)
    for cut in await cuts(played.stage.log, played.begun):
        stage = await copied(played.stage, cut)
        await silence_all(stage)
        await check(stage)
        for host in await hosts_of(stage):
            await stage.hello(host)
        await play_on(stage)
        # A host that answered first found no room on one that was silent still: it tries again.
        await stage.pass_time(61)
        await play_on(stage)
        await require_settled(stage)


@each_play
async def test_it_ends_when_a_silent_host_is_confirmed_to_be_off(play: Play) -> None:
    played = await finished(play)
    for cut in await cuts(played.stage.log, played.begun):
        stage = await copied(played.stage, cut)
        await silence_all(stage)
        for host in await hosts_of(stage):
            if (await stage.host(host)).status is HostStatus.NON_RESPONSIVE:
                await stage.do(ConfirmHostOff(id=host, name=(await stage.host(host)).name))
        await stage.settle()
        await check(stage)
        states = (await vms(stage)).values()
        assert all(vm.may_run_on == () for vm in states)
        still = [op.kind for op in (await operations(stage)).values() if op.open]
        assert set(still) <= FILES_ONLY | WAITS_FOR_ROOM | OVER_SSH | TURNS_ON
        for host in await hosts_of(stage):
            await stage.hello(host, boot=f"another boot of {host}")
        await play_on(stage)
        await require_settled(stage)


async def silence_all(stage: Stage) -> None:
    """Silence all hosts, let time-outs pass, and see that each wait names a host."""
    for host in await hosts_of(stage):
        if (await stage.host(host)).status is not HostStatus.MAINTENANCE:
            await stage.silence(host)
    await check(stage)
    await stage.pass_time(61)
    names = [(await stage.host(host)).name for host in await hosts_of(stage)]
    for operation in (await operations(stage)).values():
        if operation.open and operation.kind not in OVER_SSH:
            assert operation.attention, f"{operation.kind} waits for a silent host without a word"
            assert any(name in operation.attention for name in names)
