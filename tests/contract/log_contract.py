"""What every log must do: one suite, run on each implementation.

A test module derives a class from `LogContract` and gives it a `log` fixture.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Sequence

import pytest

from events.claims import Claim
from events.envelope import Stored
from events.log.port import (
    Append,
    Appended,
    Claimed,
    Conflict,
    KeyReused,
    Log,
    Newest,
    Outcome,
    Snapshot,
    StoredAnswer,
)
from events.log.preparation import AppendTooLargeError
from tests.contract.sample_events import (
    START,
    amount,
    check,
    command,
    exclusive,
    noted,
    release,
    shared,
)

MS = dt.timedelta(milliseconds=1)


async def accepted(log: Log, append: Append) -> Appended:
    outcome = await log.append(append)
    assert isinstance(outcome, Appended), outcome
    return outcome


async def claimed(log: Log, stream: str, *claims: Claim) -> Outcome:
    """Append one event with these claims to a stream of its own run, whatever its version."""
    version = len(await log.load(stream))
    return await log.append(command({stream: version}, noted(stream, *claims)))


def positions(events: Sequence[Stored]) -> list[int]:
    return [stored.position for stored in events]


class LogContract:
    """The suite; `log` is a fixture that gives a fresh, empty log with SAMPLE_CODEC."""

    async def test_an_empty_log_has_nothing(self, log: Log) -> None:
        assert await log.head() == 0
        assert await log.read(0) == []
        assert await log.load("vm/1") == []
        assert await log.load_many({"vm/1": 0, "vm/2": 0}) == {"vm/1": [], "vm/2": []}
        assert await log.addressed("h1", 0, 10) == []
        assert await log.position_at(START) == 0
        assert await log.answer("ann", "k") is None
        assert await log.snapshot("fold", "hash") is None

    async def test_an_accepted_command_is_stored_whole(self, log: Log) -> None:
        append = command({}, noted("vm/1", text="a"), noted("host/2", text="b", to="2"))
        outcome = await log.append(append)
        assert outcome == Appended(first=1, count=2, time=START, answer=b"{}")
        assert list(await log.read(0)) == [
            Stored(
                position=1,
                stream="vm/1",
                version=1,
                name="sample.noted",
                schema=1,
                payload=b'{"text":"a"}',
                time=START,
                actor="ann",
                command=append.command,
                correlation="operation/1",
                causation="vm/1@1",
            ),
            Stored(
                position=2,
                stream="host/2",
                version=1,
                name="sample.noted",
                schema=1,
                payload=b'{"text":"b"}',
                time=START,
                actor="ann",
                command=append.command,
                correlation="operation/1",
                causation="vm/1@1",
                addressee="2",
            ),
        ]
        assert await log.head() == 2

    async def test_versions_and_positions_follow_on(self, log: Log) -> None:
        await accepted(log, command({}, noted("vm/1"), noted("vm/1"), noted("vm/2")))
        second = await accepted(log, command({"vm/1": 2}, noted("vm/1")))
        assert (second.first, second.last) == (4, 4)
        assert [stored.version for stored in await log.load("vm/1")] == [1, 2, 3]
        assert positions(await log.load("vm/1", 1)) == [2, 4]
        assert positions(await log.read(1, 2)) == [2, 3]
        loaded = await log.load_many({"vm/2": 0, "vm/1": 1, "vm/3": 0})
        assert {stream: positions(found) for stream, found in loaded.items()} == {
            "vm/2": [3],
            "vm/1": [2, 4],
            "vm/3": [],
        }

    async def test_a_written_stream_at_another_version_is_a_conflict(self, log: Log) -> None:
        await accepted(log, command({}, noted("vm/1")))
        outcome = await log.append(command({"vm/1": 0}, noted("vm/1")))
        assert outcome == Conflict(stream="vm/1", expected=0, actual=1)
        outcome = await log.append(command({"vm/1": 2}, noted("vm/1")))
        assert outcome == Conflict(stream="vm/1", expected=2, actual=1)
        assert await log.head() == 1

    async def test_a_stream_that_was_only_read_is_checked_too(self, log: Log) -> None:
        await accepted(log, command({}, noted("cluster/1")))
        outcome = await log.append(command({"cluster/1": 0}, noted("vm/1")))
        assert outcome == Conflict(stream="cluster/1", expected=0, actual=1)
        await accepted(log, command({"cluster/1": 1}, noted("vm/1")))

    async def test_two_commands_that_read_what_the_other_writes_do_not_both_pass(
        self, log: Log
    ) -> None:
        await accepted(log, command({}, noted("a/1"), noted("b/1")))
        outcomes = await asyncio.gather(
            log.append(command({"a/1": 1, "b/1": 1}, noted("a/1"))),
            log.append(command({"a/1": 1, "b/1": 1}, noted("b/1"))),
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Appended", "Conflict"]

    async def test_a_write_without_a_read_version_is_a_mistake(self, log: Log) -> None:
        append = Append(
            command=uuid.uuid4(),
            principal="ann",
            actor="ann",
            reads={},
            events=(noted("vm/1"),),
            time=START,
        )
        with pytest.raises(ValueError, match="vm/1"):
            await log.append(append)

    async def test_a_nul_character_is_a_mistake(self, log: Log) -> None:
        for wrong in (
            command({"vm/\0": 0}),
            command({}, principal="a\0"),
            command({}, noted("vm/1", exclusive("name/\0", "vm/1"))),
            command({}, noted("vm/1", to="\0")),
        ):
            with pytest.raises(ValueError, match="NUL"):
                await log.append(wrong)
        assert await log.head() == 0

    async def test_too_many_or_too_large_events_are_refused_before_anything_is_sent(
        self, log: Log
    ) -> None:
        with pytest.raises(AppendTooLargeError):
            await log.append(command({}, *(noted("vm/1") for _ in range(1_001))))
        with pytest.raises(AppendTooLargeError):
            await log.append(command({}, *(noted("vm/1", text="x" * 250_000) for _ in range(5))))
        with pytest.raises(ValueError, match="exceeds"):
            await log.append(command({}, noted("vm/1", text="x" * 262_144)))
        whole = await accepted(log, command({}, *(noted("vm/1") for _ in range(1_000))))
        assert whole.last == 1_000
        assert await log.head() == 1_000

    # --- answers ---------------------------------------------------------------------------------

    async def test_a_repeat_is_answered_and_stores_nothing(self, log: Log) -> None:
        first = await accepted(log, command({}, noted("vm/1"), key="k", answer=b'{"id":1}'))
        again = command({"vm/1": 0}, noted("vm/1"), key="k", answer=b"other", time=START + MS)
        assert await log.append(again) == Appended(
            first=1, count=1, time=first.time, answer=b'{"id":1}', repeated=True
        )
        assert await log.head() == 1
        assert await log.answer("ann", "k") == StoredAnswer(
            body_mac=b"mac", answer=b'{"id":1}', first=1, count=1, time=START
        )

    async def test_a_key_with_another_body_is_refused(self, log: Log) -> None:
        await accepted(log, command({}, noted("vm/1"), key="k"))
        outcome = await log.append(command({}, noted("vm/2"), key="k", mac=b"another"))
        assert outcome == KeyReused(key="k")
        assert await log.head() == 1

    async def test_keys_of_two_principals_are_not_the_same(self, log: Log) -> None:
        await accepted(log, command({}, noted("vm/1"), key="k"))
        await accepted(log, command({}, noted("vm/2"), key="k", mac=b"b", principal="bob"))
        assert await log.head() == 2

    async def test_without_a_key_the_command_id_serves(self, log: Log) -> None:
        append = command({}, noted("vm/1"))
        await accepted(log, append)
        repeat = await accepted(log, append)
        assert repeat.repeated
        assert await log.answer("ann", str(append.command)) is not None

    async def test_a_refused_command_leaves_no_answer(self, log: Log) -> None:
        await accepted(log, command({}, noted("vm/1")))
        conflict = command({"vm/1": 0}, noted("vm/1"), key="k")
        assert isinstance(await log.append(conflict), Conflict)
        assert await log.answer("ann", "k") is None
        decided_again = command({"vm/1": 1}, noted("vm/1"), key="k", mac=b"another")
        assert not (await accepted(log, decided_again)).repeated

    async def test_a_command_without_events_is_answered_and_repeated(self, log: Log) -> None:
        await accepted(log, command({}, noted("vm/1"), noted("vm/1")))
        empty = await accepted(log, command({"vm/1": 2}, key="k", answer=b"same"))
        assert (empty.first, empty.count, empty.last) == (3, 0, 2)
        repeat = await accepted(log, command({"vm/1": 2}, key="k", answer=b""))
        assert (repeat.first, repeat.count, repeat.answer, repeat.repeated) == (3, 0, b"same", True)
        stale = await log.append(command({"vm/1": 1}, key="k2"))
        assert isinstance(stale, Conflict)
        assert await log.head() == 2

    async def test_one_key_sent_many_times_at_once_takes_effect_once(self, log: Log) -> None:
        outcomes = await asyncio.gather(
            *(log.append(command({}, noted("vm/1"), key="k")) for _ in range(20))
        )
        assert all(isinstance(outcome, Appended) for outcome in outcomes)
        assert {outcome.first for outcome in outcomes if isinstance(outcome, Appended)} == {1}
        assert await log.head() == 1

    # --- time ------------------------------------------------------------------------------------

    async def test_time_never_falls_along_the_positions(self, log: Log) -> None:
        late, early = START + 10 * MS, START
        await accepted(log, command({}, noted("vm/1"), time=late))
        back = await accepted(log, command({}, noted("vm/2"), time=early))
        assert back.time == late
        assert (await log.read(1))[0].time == late
        stored = await log.answer("ann", str((await log.read(1))[0].command))
        assert stored is not None
        assert stored.time == late

    async def test_a_time_in_another_zone_is_the_same_instant(self, log: Log) -> None:
        there = dt.timezone(dt.timedelta(hours=2))
        outcome = await accepted(log, command({}, noted("vm/1"), time=START.astimezone(there)))
        assert outcome.time == START
        assert outcome.time.utcoffset() == dt.timedelta(0)
        (stored,) = await log.read(0)
        assert stored.time == START
        assert stored.time.utcoffset() == dt.timedelta(0)

    async def test_a_time_without_a_zone_is_a_mistake(self, log: Log) -> None:
        with pytest.raises(ValueError, match="zone"):
            await log.append(command({}, noted("vm/1"), time=START.replace(tzinfo=None)))

    async def test_position_at_finds_the_last_event_of_an_instant(self, log: Log) -> None:
        for number, time in enumerate((START, START, START + 2 * MS)):
            await accepted(log, command({}, noted(f"vm/{number}"), time=time))
        assert await log.position_at(START - MS) == 0
        assert await log.position_at(START) == 2
        assert await log.position_at(START + MS) == 2
        assert await log.position_at(START + 9 * MS) == 3

    # --- claims ----------------------------------------------------------------------------------

    async def test_an_exclusive_claim_shuts_out_every_other_holder(self, log: Log) -> None:
        await claimed(log, "vm/1", exclusive("name/a", "vm/1"))
        for other in (
            exclusive("name/a", "vm/2"),
            shared("name/a", "vm/2"),
            check("name/a", "vm/2"),
            amount("name/a", "vm/2", 1, 10),
        ):
            outcome = await claimed(log, "vm/2", other)
            assert outcome == Claimed(key="name/a", holder="vm/1", mode="exclusive"), other
        assert await log.head() == 1
        assert isinstance(await claimed(log, "vm/1", exclusive("name/a", "vm/1")), Appended)
        assert isinstance(await claimed(log, "vm/1", check("name/a", "vm/1")), Appended)

    async def test_shared_claims_live_together_and_shut_out_an_exclusive_one(
        self, log: Log
    ) -> None:
        assert isinstance(await claimed(log, "vm/1", shared("host/1", "vm/1")), Appended)
        assert isinstance(await claimed(log, "vm/2", shared("host/1", "vm/2")), Appended)
        outcome = await claimed(log, "host/1", exclusive("host/1", "host/1"))
        assert outcome == Claimed(key="host/1", holder="vm/1", mode="shared")
        await claimed(log, "vm/1", release("host/1", "vm/1"))
        await claimed(log, "vm/2", release("host/1", "vm/2"))
        assert isinstance(await claimed(log, "host/1", exclusive("host/1", "host/1")), Appended)

    async def test_a_check_stores_nothing(self, log: Log) -> None:
        assert isinstance(await claimed(log, "vm/1", check("gate", "vm/1")), Appended)
        assert isinstance(await claimed(log, "host/1", exclusive("gate", "host/1")), Appended)
        outcome = await claimed(log, "vm/2", check("gate", "vm/2"))
        assert outcome == Claimed(key="gate", holder="host/1", mode="exclusive")

    async def test_a_release_is_idempotent_and_only_its_holders(self, log: Log) -> None:
        await claimed(log, "vm/1", exclusive("name/a", "vm/1"))
        assert isinstance(await claimed(log, "vm/2", release("name/a", "vm/2")), Appended)
        assert isinstance(await claimed(log, "vm/2", exclusive("name/a", "vm/2")), Claimed)
        await claimed(log, "vm/1", release("name/a", "vm/1"))
        assert isinstance(await claimed(log, "vm/1", release("name/a", "vm/1")), Appended)
        assert isinstance(await claimed(log, "vm/2", exclusive("name/a", "vm/2")), Appended)

    async def test_amounts_stay_within_their_limit(self, log: Log) -> None:
        assert isinstance(await claimed(log, "vm/1", amount("cpu", "vm/1", 4, 10)), Appended)
        assert isinstance(await claimed(log, "vm/2", amount("cpu", "vm/2", 6, 10)), Appended)
        outcome = await claimed(log, "vm/3", amount("cpu", "vm/3", 1, 10))
        assert outcome == Claimed(key="cpu", holder="vm/2", mode="amount")
        # The same holder's amount is replaced, not added to.
        assert isinstance(await claimed(log, "vm/2", amount("cpu", "vm/2", 5, 10)), Appended)
        assert isinstance(await claimed(log, "vm/3", amount("cpu", "vm/3", 1, 10)), Appended)
        alone = await claimed(log, "vm/9", amount("disk", "vm/9", 11, 10))
        assert alone == Claimed(key="disk", holder="vm/9", mode="amount")

    async def test_many_amounts_at_once_never_exceed_the_limit(self, log: Log) -> None:
        outcomes = await asyncio.gather(
            *(
                log.append(command({}, noted(f"vm/{n}", amount("cpu", f"vm/{n}", 3, 10))))
                for n in range(20)
            )
        )
        assert sum(isinstance(outcome, Appended) for outcome in outcomes) == 3
        assert sum(isinstance(outcome, Claimed) for outcome in outcomes) == 17

    async def test_many_shared_claims_at_once_all_pass(self, log: Log) -> None:
        outcomes = await asyncio.gather(
            *(
                log.append(
                    command(
                        {},
                        noted(
                            f"vm/{n}", check("host/1/gate", f"vm/{n}"), shared("host/1", f"vm/{n}")
                        ),
                    )
                )
                for n in range(50)
            )
        )
        assert all(isinstance(outcome, Appended) for outcome in outcomes)

    async def test_one_name_taken_by_many_at_once_goes_to_one(self, log: Log) -> None:
        outcomes = await asyncio.gather(
            *(
                log.append(command({}, noted(f"vm/{n}", exclusive("name/a", f"vm/{n}"))))
                for n in range(20)
            )
        )
        winners = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
        (stored,) = await log.read(0)
        assert len(winners) == 1
        assert {outcome for outcome in outcomes if not isinstance(outcome, Appended)} == {
            Claimed(key="name/a", holder=stored.stream, mode="exclusive")
        }

    async def test_one_command_may_release_and_take_a_key(self, log: Log) -> None:
        await claimed(log, "vm/1", exclusive("name/a", "vm/1"))
        swap = (release("name/a", "vm/1"), exclusive("name/a", "vm/1"))
        assert isinstance(await claimed(log, "vm/1", *swap), Appended)
        assert isinstance(await claimed(log, "vm/2", exclusive("name/a", "vm/2")), Claimed)
        hand_over = (release("name/a", "vm/1"), exclusive("name/a", "vm/2"))
        assert isinstance(await claimed(log, "vm/1", *hand_over), Appended)
        outcome = await claimed(log, "vm/1", exclusive("name/a", "vm/1"))
        assert outcome == Claimed(key="name/a", holder="vm/2", mode="exclusive")

    async def test_claims_that_contradict_each_other_are_refused(self, log: Log) -> None:
        both = (exclusive("name/a", "vm/1"), exclusive("name/a", "vm/2"))
        outcome = await claimed(log, "vm/1", *both)
        assert outcome == Claimed(key="name/a", holder="vm/1", mode="exclusive")
        # What a conflict or a known key says comes first, as for any other claim.
        stale = await log.append(command({"vm/1": 7}, noted("vm/1", *both)))
        assert isinstance(stale, Conflict)
        assert await log.head() == 0

    async def test_a_refused_command_leaves_nothing(self, log: Log) -> None:
        await claimed(log, "vm/1", exclusive("name/a", "vm/1"))
        refused = command(
            {},
            noted("vm/2", exclusive("name/b", "vm/2"), release("name/a", "vm/2")),
            noted("vm/2", exclusive("name/a", "vm/2")),
            key="k",
        )
        assert isinstance(await log.append(refused), Claimed)
        assert await log.head() == 1
        assert await log.load("vm/2") == []
        assert await log.answer("ann", "k") is None
        assert isinstance(await claimed(log, "vm/3", exclusive("name/b", "vm/3")), Appended)

    async def test_a_refused_command_harms_no_other(self, log: Log) -> None:
        await accepted(log, command({}, noted("vm/0", exclusive("name/a", "vm/0"))))
        await accepted(log, command({}, noted("vm/k"), key="known"))
        outcomes = await asyncio.gather(
            log.append(command({}, noted("vm/1"))),
            log.append(command({"vm/0": 5}, noted("vm/2"))),
            log.append(command({}, noted("vm/3", exclusive("name/a", "vm/3")))),
            log.append(command({}, noted("vm/4"), key="known", mac=b"another")),
            log.append(command({}, noted("vm/5"), key="known")),
            log.append(command({}, noted("vm/6"), noted("vm/6"))),
            log.append(command({"vm/0": 1})),
            log.append(command({}, noted("vm/7"))),
        )
        assert [type(outcome).__name__ for outcome in outcomes] == [
            "Appended",
            "Conflict",
            "Claimed",
            "KeyReused",
            "Appended",
            "Appended",
            "Appended",
            "Appended",
        ]
        stored = await log.read(2)
        assert positions(stored) == [3, 4, 5, 6]
        assert [one.stream for one in stored] == ["vm/1", "vm/6", "vm/6", "vm/7"]

    # --- order -----------------------------------------------------------------------------------

    async def test_positions_have_no_gap_whatever_is_refused(self, log: Log) -> None:
        async def one_writer(number: int) -> None:
            stream = f"vm/{number}"
            for version in range(20):
                await accepted(log, command({stream: version}, noted(stream)))
                assert isinstance(await log.append(command({stream: 99}, noted(stream))), Conflict)

        await asyncio.gather(*(one_writer(number) for number in range(8)))
        stored = await log.read(0)
        assert positions(stored) == list(range(1, 161))
        for number in range(8):
            versions = [one.version for one in stored if one.stream == f"vm/{number}"]
            assert versions == list(range(1, 21))

    async def test_orders_of_a_host_are_read_in_order(self, log: Log) -> None:
        for number in range(6):
            await accepted(log, command({}, noted(f"vm/{number}", to=f"h{number % 2}")))
        await accepted(log, command({}, noted("vm/none")))
        assert positions(await log.addressed("h0", 0, 10)) == [1, 3, 5]
        assert positions(await log.addressed("h0", 1, 1)) == [3]
        assert positions(await log.addressed("h1", 6, 10)) == []

    # --- waiting ---------------------------------------------------------------------------------

    async def test_waiting_ends_with_the_next_event(self, log: Log) -> None:
        await accepted(log, command({}, noted("vm/1")))
        assert await log.wait(0, 5.0) == 1
        waiting = asyncio.ensure_future(log.wait(1, 5.0))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await accepted(log, command({}, noted("vm/2")))
        assert await asyncio.wait_for(waiting, 20.0) == 2

    async def test_waiting_has_a_limit(self, log: Log) -> None:
        assert await asyncio.wait_for(log.wait(0, 0.05), 20.0) == 0

    # --- snapshots -------------------------------------------------------------------------------

    async def test_the_newest_snapshot_is_kept(self, log: Log) -> None:
        def snapshot(position: int, schema_hash: str = "h1") -> Snapshot:
            return Snapshot(
                name="vm/1",
                schema_hash=schema_hash,
                position=position,
                version=position,
                state=f"state {position} {schema_hash}".encode(),
            )

        await log.save_snapshot(snapshot(5))
        await log.save_snapshot(snapshot(3))
        assert await log.snapshot("vm/1", "h1") == snapshot(5)
        assert await log.snapshot("vm/2", "h1") is None
        await log.save_snapshot(snapshot(8))
        assert await log.snapshot("vm/1", "h1") == snapshot(8)
        assert await log.snapshot("vm/1", "h2") is None
        await log.save_snapshot(snapshot(4, "h2"))  # a release with another fold starts anew
        assert await log.snapshot("vm/1", "h2") == snapshot(4, "h2")
        assert await log.snapshot("vm/1", "h1") is None

    async def test_a_snapshot_is_loaded_with_the_events_behind_it(self, log: Log) -> None:
        events: dict[str, Sequence[Stored]] = {}
        for stream in ("vm/1", "vm/2", "vm/3"):
            await accepted(log, command({}, noted(stream), noted(stream), noted(stream)))
            events[stream] = await log.load(stream)
        snapshots = [
            Snapshot(
                name=stream, schema_hash="h1", position=position, version=version, state=b"\x00s"
            )
            for stream, position, version in (("vm/1", 2, 2), ("vm/2", 6, 3))
        ]
        for snapshot in snapshots:
            await log.save_snapshot(snapshot)
        found = await log.load_newest(
            {"vm/1": "h1", "vm/2": "h2", "vm/4": "h1"}, {"vm/3": 1, "vm/5": 7}
        )
        assert found == {
            "vm/1": Newest(snapshots[0], events["vm/1"][2:]),
            "vm/2": Newest(None, events["vm/2"]),
            "vm/3": Newest(None, events["vm/3"][1:]),
            "vm/4": Newest(None, []),
            "vm/5": Newest(None, []),
        }
        assert await log.load_newest({"vm/2": "h1"}, {}) == {"vm/2": Newest(snapshots[1], [])}
        assert await log.load_newest({}, {}) == {}
