"""What every driver that moves running VMs does, whatever hypervisor lies behind it.

A test module subclasses `MovesContract` and gives it a fixture `pair`: two hosts that share their
storage folder, with a line between them.
"""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod

import pytest

from events.types.job import Job, JobKind, Sending
from events.types.run_spec import RunSpec
from events.types.vm import DownReason
from events.wire.agent import IntentVm, Receiving, Role
from hostagent.convergence import ABORT, GO_ON, Copying, Look, Move, Terms
from hostagent.driver import Domain, DriverError, Happening
from hostagent.migration_line import Streams
from hostagent.migrations import Moves
from tests.contract.driver_contract import DriverRig

TERMS = Terms(down_time_ms=100)


class MovesRig(ABC):
    """Two hosts for the tests."""

    source: DriverRig
    destination: DriverRig
    sends: Moves
    takes_in: Moves

    @abstractmethod
    async def open_channel(self, channel: str, item: IntentVm) -> Streams:
        """Connect a channel of the source to the destination's driver."""

    @abstractmethod
    async def slow_down(self, spec: RunSpec) -> None:
        """Let the copying of a VM take long enough for something to happen meanwhile."""

    @abstractmethod
    def cut(self) -> None:
        """Break all connections."""

    async def move(
        self,
        spec: RunSpec,
        *,
        expected: RunSpec | None = None,
        terms: Terms = TERMS,
        look: Look = lambda _seen: GO_ON,
    ) -> None:
        """Move a VM as the two agents would."""
        item = IntentVm(
            vm=spec.vm,
            incarnation=spec.incarnation,
            role=Role.INCOMING,
            position=1,
            spec=expected or spec,
            receiving=Receiving(migration=str(uuid.uuid4()), source="source"),
        )
        assert item.receiving is not None
        migration = item.receiving.migration
        job = Job(
            id=f"{migration}/copy",
            kind=JobKind.VM_MIGRATE,
            vm=spec.vm,
            incarnation=spec.incarnation,
            sending=Sending(destination="destination", address=""),
        )

        async def dial(channel: str) -> Streams:
            if channel == self.takes_in.opening_channel:
                await self.takes_in.prepare(expected or spec, migration)
            return await self.open_channel(channel, item)

        await self.sends.send(job, dial, terms, look)


async def until_there(rig: DriverRig, vm: str) -> Domain:
    """Wait until a VM is on a host."""
    await rig.eventually(lambda domain: domain is not None, vm)
    domain = await rig.domain(vm)
    assert domain is not None
    return domain


class MovesContract:
    """The suite; see the module."""

    async def test_a_moved_vm_stands_still_there_and_is_gone_here(self, pair: MovesRig) -> None:
        spec = await pair.source.running(incarnation=3)

        await pair.move(spec)

        assert await pair.source.domain(spec.vm) is None
        ended = await pair.source.until(Happening.ENDED, spec.vm)
        assert ended.reason is DownReason.MIGRATED
        there = await pair.destination.domain(spec.vm)
        assert there is not None
        assert (there.incarnation, there.paused, there.held) == (3, True, None)
        await pair.destination.driver.resume(spec.vm, 3)
        await pair.destination.eventually(lambda d: d is not None and not d.paused, spec.vm)
        await pair.destination.until(Happening.CONTINUED, spec.vm)

    async def test_while_it_is_copied_it_runs_here_and_is_held_there(self, pair: MovesRig) -> None:
        spec = await pair.source.running()
        await pair.slow_down(spec)
        seen: list[Copying] = []

        def look(copying: Copying) -> Move:
            seen.append(copying)
            return GO_ON

        moving = asyncio.create_task(pair.move(spec, look=look))
        there = await until_there(pair.destination, spec.vm)
        here = await pair.source.domain(spec.vm)

        assert there.held
        assert there.paused
        with pytest.raises(DriverError):
            await pair.destination.driver.resume(spec.vm, 1)
        assert here is not None
        assert not here.paused
        await moving
        assert [one.percent for one in seen] == sorted(one.percent for one in seen)
        assert seen[-1].total_bytes > 0

    async def test_an_aborted_move_leaves_the_vm_here_alone(self, pair: MovesRig) -> None:
        spec = await pair.source.running()
        await pair.slow_down(spec)
        moves = iter([GO_ON, ABORT])

        with pytest.raises(DriverError):
            await pair.move(spec, look=lambda _seen: next(moves, ABORT))

        await self.stays(pair, spec)

    async def test_a_line_that_breaks_leaves_the_vm_here_alone(self, pair: MovesRig) -> None:
        spec = await pair.source.running()
        await pair.slow_down(spec)
        moving = asyncio.create_task(pair.move(spec))
        await until_there(pair.destination, spec.vm)

        pair.cut()

        with pytest.raises((DriverError, OSError)):
            await moving
        await self.stays(pair, spec)

    async def test_what_is_not_as_expected_is_not_taken_in(self, pair: MovesRig) -> None:
        spec = await pair.source.running(incarnation=2)
        expected = pair.source.spec(spec.vm, 1)

        with pytest.raises((DriverError, OSError)):
            await pair.move(spec, expected=expected)

        await self.stays(pair, spec)

    async def test_what_does_not_run_is_not_sent(self, pair: MovesRig) -> None:
        spec = pair.source.spec(str(uuid.uuid4()))

        with pytest.raises(DriverError):
            await pair.move(spec)

        assert await pair.destination.domain(spec.vm) is None

    async def stays(self, pair: MovesRig, spec: RunSpec) -> None:
        """Check that a VM is where it was, running, and nowhere else."""
        await pair.source.eventually(
            lambda domain: domain is not None and not domain.paused and not domain.held, spec.vm
        )
        await pair.destination.eventually(lambda domain: domain is None, spec.vm)
