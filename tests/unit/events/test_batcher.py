"""The batcher lets go what may go together, holds back what overlaps, and forgets nothing."""

from __future__ import annotations

import asyncio
import random

import pytest

from events.claims import Claim
from events.log.batcher import Batcher, Pending
from events.log.group import encode
from events.log.port import Append, Outcome
from events.log.preparation import prepare
from tests.contract.sample_events import (
    SAMPLE_CODEC,
    amount,
    check,
    command,
    exclusive,
    noted,
    release,
    shared,
)


def pending(append: Append) -> Pending:
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    return Pending(encode(prepare(append, SAMPLE_CODEC)), future, 0.0)


def claiming(stream: str, *claims: Claim) -> Append:
    return command({}, noted(stream, *claims))


async def group_sizes(*appends: Append) -> list[int]:
    """How these commands, put in at once, go out group by group."""
    batcher = Batcher()
    for append in appends:
        batcher.put(pending(append))
    sizes: list[int] = []
    while group := batcher.take():
        sizes.append(len(group))
        batcher.done(group)
    assert len(batcher) == 0
    return sizes


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (command({}, noted("vm/1")), command({}, noted("vm/2")), True),
        (command({"a": 1}, noted("vm/1")), command({"a": 1}, noted("vm/2")), True),
        (command({}, noted("vm/1")), command({"vm/1": 0}, noted("vm/2")), False),
        (command({"vm/2": 0}, noted("vm/1")), command({}, noted("vm/2")), True),
        (command({}, noted("vm/1")), command({}, noted("vm/1")), False),
        (command({}, key="k"), command({}, key="k"), False),
        (command({}, key="k"), command({}, key="k", principal="bob"), True),
        (claiming("a", exclusive("n", "a")), claiming("b", exclusive("n", "b")), False),
        (claiming("a", exclusive("n", "a")), claiming("b", check("n", "b")), False),
        (claiming("a", shared("n", "a")), claiming("b", shared("n", "b")), True),
        (claiming("a", shared("n", "a")), claiming("b", exclusive("n", "b")), False),
        (claiming("a", check("n", "a")), claiming("b", check("n", "b")), True),
        (claiming("a", check("n", "a")), claiming("b", exclusive("n", "b")), True),
        (claiming("a", release("n", "a")), claiming("b", release("n", "b")), True),
        (claiming("a", release("n", "a")), claiming("b", shared("n", "b")), True),
        (claiming("a", release("n", "a")), claiming("b", exclusive("n", "b")), False),
        (claiming("a", release("n", "x")), claiming("b", shared("n", "x")), False),
        (claiming("a", amount("n", "a", 1, 9)), claiming("b", amount("n", "b", 1, 9)), True),
    ],
)
async def test_what_overlaps_does_not_go_together(
    first: Append, second: Append, *, together: bool
) -> None:
    assert await group_sizes(first, second) == ([2] if together else [1, 1])


async def test_what_a_flying_group_writes_is_held_back() -> None:
    batcher = Batcher()
    first, second, other = (pending(command({}, noted(stream))) for stream in ("a", "a", "b"))
    batcher.put(first)
    flying = batcher.take()
    batcher.put(second)
    batcher.put(other)
    assert batcher.take() == [other]
    assert batcher.take() == []
    batcher.done(flying)
    assert batcher.take() == [second]


async def test_commands_on_one_stream_go_in_the_order_in_which_they_came() -> None:
    batcher = Batcher()
    waiting = [pending(command({}, noted("a"), key=str(number))) for number in range(5)]
    for one in waiting:
        batcher.put(one)
    order: list[Pending] = []
    while group := batcher.take():
        order += group
        batcher.done(group)
    assert order == waiting


async def test_readers_of_a_freed_stream_go_together() -> None:
    reading = [command({"a": 0}, noted(f"vm/{number}")) for number in range(4)]
    assert await group_sizes(command({}, noted("a")), *reading) == [1, 4]


async def test_a_group_is_within_its_limits() -> None:
    small = [command({}, noted(f"vm/{number}")) for number in range(600)]
    assert await group_sizes(*small) == [256, 256, 88]
    many = [command({}, *(noted(f"vm/{number}") for _ in range(400))) for number in range(5)]
    assert await group_sizes(*many) == [2, 2, 1]
    large = [command({}, noted(f"vm/{number}", text="x" * 200_000)) for number in range(6)]
    assert await group_sizes(*large) == [5, 1]


async def test_a_parked_command_that_does_not_fit_any_more_goes_next() -> None:
    batcher = Batcher()
    head = pending(command({}, noted("a")))
    parked = [
        pending(command({"a": 0}, noted(f"vm/{number}", text="x" * 250_000))) for number in range(6)
    ]
    for one in (head, *parked):
        batcher.put(one)
    assert batcher.take() == [head]
    batcher.done([head])
    first = batcher.take()
    batcher.done(first)
    second = batcher.take()
    batcher.done(second)
    assert first + second == parked
    assert len(batcher) == 0


async def test_commands_whose_callers_left_are_dropped() -> None:
    batcher = Batcher()
    head, gone, parked = (pending(command({}, noted("a"))) for _ in range(3))
    for one in (head, gone, parked):
        batcher.put(one)
    assert batcher.take() == [head]
    gone.future.cancel()
    batcher.done([head])
    assert batcher.take() == [parked]


async def test_deferred_commands_go_before_all_others() -> None:
    batcher = Batcher()
    deferred, later = (pending(command({}, noted(stream))) for stream in ("a", "b"))
    batcher.put(deferred)
    group = batcher.take()
    batcher.put(later)
    batcher.done(group)
    batcher.put_back(group)
    assert batcher.take() == [deferred, later]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_comes_everything_goes_once(seed: int) -> None:
    """Random commands over few streams and keys, with up to two groups in flight."""
    random_ = random.Random(seed)
    batcher = Batcher()
    flying: list[list[Pending]] = []
    waiting = [pending(random_append(random_)) for _ in range(200)]
    sent: list[Pending] = []
    to_come = list(waiting)
    for _ in range(5_000):
        action = random_.random()
        if to_come and action < 0.5:
            batcher.put(to_come.pop())
        elif len(flying) < 2 and action < 0.8:
            group = batcher.take(random_.randint(1, 20))
            if group:
                assert_apart(group, flying)
                flying.append(group)
                sent += group
        elif flying:
            batcher.done(flying.pop(random_.randrange(len(flying))))
        if len(sent) == len(waiting):
            break
    assert set(sent) == set(waiting)
    assert len(sent) == len(waiting)


def random_append(random_: random.Random) -> Append:
    stream = random_.choice("abcdef")
    reads = {other: 0 for other in "abc" if random_.random() < 0.2}
    kinds = (exclusive, shared, check, release)
    claims = [
        random_.choice(kinds)(random_.choice("mn"), random_.choice("xyz"))
        for _ in range(random_.randint(0, 2))
    ]
    return command(reads, noted(stream, *claims), key=str(random_.randint(0, 150)))


def assert_apart(group: list[Pending], flying: list[list[Pending]]) -> None:
    """Nobody reads what an earlier one of the group, or one in flight, writes."""
    written = {stream for other in flying for one in other for stream in one.writes}
    for one in group:
        assert not written & one.encoded.prepared.append.reads.keys()
        written |= one.writes
