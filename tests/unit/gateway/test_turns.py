"""So many at once, the others in their order, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from commands.gateway.turns import Turns
from events.log.port import OverloadedError
from tests.unit.gateway.bench import Bench


async def test_so_many_at_once_and_the_others_in_their_order() -> None:
    turns = Turns(2, wait_s=60.0, retry_after_s=1.0)
    inside: set[int] = set()
    order: list[int] = []

    async def work(number: int) -> None:
        async with turns.taken():
            inside.add(number)
            order.append(number)
            assert len(inside) <= 2
            await asyncio.sleep(0)
            inside.remove(number)

    await asyncio.gather(*(work(number) for number in range(10)))
    assert order == list(range(10))


async def test_whoever_waits_too_long_is_told_when_to_come_again() -> None:
    turns = Turns(1, wait_s=0.01, retry_after_s=7.0)
    async with turns.taken():
        with pytest.raises(OverloadedError) as caught:
            async with turns.taken():
                pytest.fail("two at once")
    assert caught.value.retry_after_s == 7.0
    async with turns.taken():
        pass


async def test_a_turn_that_fails_or_is_cancelled_is_given_back() -> None:
    turns = Turns(1, wait_s=0.05, retry_after_s=1.0)
    with pytest.raises(ValueError, match="mine"):
        async with turns.taken():
            raise ValueError("mine")
    async with turns.taken():
        waiting = asyncio.create_task(turns.taken().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with turns.taken():
        pass


async def test_a_hello_that_finds_no_turn_is_told_to_come_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await bench.agent()
    turns = Turns(1, wait_s=0.01, retry_after_s=5.0)
    monkeypatch.setattr(bench.engine.gateway, "_hellos", turns)
    head = await bench.log.head()
    async with turns.taken():
        answer = await agent.say_hello()
    assert answer.status == 503
    assert await bench.log.head() == head
    assert (await agent.say_hello()).status == 200
