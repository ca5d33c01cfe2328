"""The policy runner (contract B): follows the log and makes the sagas' moves, each once.

It is one process at a time: taking over appends `policy.elected`, and every later append reads
that stream's version, so that a process which lost its place fails at its next move and exits.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec
import structlog

from commands.kernel.command import Context, Decision
from commands.kernel.fold import World
from commands.kernel.refusal import Refusal
from commands.kernel.snapshots import EVENTS_BETWEEN, Keeper
from commands.policies.balance_moves import plan_of
from commands.policies.beginnings import Beginnings, Due
from commands.policies.catalogue import SAGAS, WATCHES
from commands.policies.facts import SHAPE, Facts, FactsWorld
from commands.policies.lost import end_lost, withdraw_outdated
from commands.policies.office import ContextSource, Office, SupersededError
from commands.policies.saga import Saga, Scene, Timeouts
from commands.policies.watch import Watch
from commands.scheduler.fleet import Fleet
from commands.state.operation import OPERATION, OperationState, StepState
from events.codec import CODEC
from events.envelope import NewEvent, Recorded
from events.log.port import (
    Appended,
    Claimed,
    Conflict,
    Log,
    OverloadedError,
    UnavailableError,
)
from events.types import operation as e
from events.types.vm import VmPlaced
from events.types.vm_jobs import VmDisksAssigned
from events.types.vm_migration import VmMigrationStarted
from events.types.vm_tuning import Dedicated

_AT_ONCE_MAX = 128
"""How many operations are moved beside each other."""
_MOVES_MAX = 50
"""The most moves of one operation in a row, before others get their turn."""
_RETRY_S = 0.5
_WAIT_S_MAX = 30.0

log = structlog.get_logger(__name__)


class Runner:
    """Makes the sagas' moves. `run` ends only by SupersededError or cancellation."""

    def __init__(
        self,
        events: Log,
        source: ContextSource,
        timeouts: Timeouts,
        process: str,
        *,
        snapshot_events: int = EVENTS_BETWEEN,
        watches: Sequence[Callable[[Timeouts], Watch]] = WATCHES,
    ) -> None:
        self._log = events
        self._keeper = Keeper(events, SHAPE, events_between=snapshot_events)
        self._office = Office(events, source, process)
        self._timeouts = timeouts
        observers = [make(timeouts) for make in watches]
        self._beginnings = Beginnings(observers, timeouts.retry_s)
        self._facts = Facts(observers)
        self._reading = asyncio.Lock()
        self._dirty: dict[str, None] = {}
        self._put_off: set[str] = set()
        self._outdated: list[str] = []

    @property
    def position(self) -> int:
        """The position up to which the log was taken in."""
        return self._facts.position

    @property
    def fleet(self) -> Fleet:
        """All hosts, as placements see them: whoever measures their loads tells it."""
        return self._facts.fleet

    @property
    def waiting(self) -> int:
        """The number of operations that have not ended."""
        return len(self._facts.operations)

    async def run(self) -> None:
        """Take the policy over, catch up, then follow the log for ever."""
        await self.begin()
        try:
            while True:
                try:
                    await self.turn()
                    await self._log.wait(self._facts.position, self._until_next_timer_s())
                except (OverloadedError, UnavailableError) as error:
                    log.warning("policies wait for the log", reason=str(error))
                    await asyncio.sleep(_RETRY_S)
        finally:
            await self._keeper.close()

    async def begin(self) -> None:
        """Take the policy over and catch up with the log."""
        await self._office.take()
        await self._keeper.restore(self._facts)
        await self._catch_up(collect=False)
        self._dirty = dict.fromkeys(self._facts.operations)
        self._outdated = self._facts.outdated()

    async def turn(self) -> None:
        """Take in what is new and make every move that can be made now."""
        await self._catch_up(collect=True)
        self._dirty |= dict.fromkeys(sorted(self._put_off))
        self._put_off.clear()
        await self._end_lost_runs()
        await self._withdraw_outdated()
        await self._fire_timers()
        await self._begin_due()
        self._wake()
        while self._dirty:
            batch = list(itertools.islice(self._dirty, _AT_ONCE_MAX))
            for operation in batch:
                del self._dirty[operation]
            await self._advance_all(batch)
            await self._catch_up(collect=True)

    async def _advance_all(self, operations: list[str]) -> None:
        """Make the moves of several operations beside each other: their appends share commits.

        Decisions are made one at a time, each counting what those before it reserved.
        """
        await _all(self._advance(operation) for operation in operations)

    async def _catch_up(self, *, collect: bool) -> None:
        """Take in everything new; with `collect`, note which operations it may move."""
        async with self._reading:
            while stored := await self._log.read(self._facts.position):
                for one in stored:
                    self._take(CODEC.decode(one), collect=collect)
                self._keeper.look(self._facts)

    async def _reach(self, position: int) -> None:
        """Take in everything up to a position that is known to be in the log."""
        while self._facts.position < position:
            await self._catch_up(collect=True)

    def _take(self, recorded: Recorded, *, collect: bool) -> None:
        self._office.look(recorded)
        before = self._facts.concerned(recorded) if collect else set()
        self._facts.take(recorded)
        if collect:
            for operation in before | self._facts.concerned(recorded):
                self._dirty[operation] = None

    async def _advance(self, operation_id: str) -> None:
        """Make an operation's moves until it waits."""
        for _move in range(_MOVES_MAX):
            operation = self._facts.operations.get(operation_id)
            saga = SAGAS.get(operation.kind) if operation is not None else None
            if operation is None or saga is None:
                return
            try:
                moved = await self._move(operation, saga)
            except (SupersededError, OverloadedError, UnavailableError):
                self._dirty[operation_id] = None
                raise
            except Exception as error:
                log.exception("a saga failed", operation=operation_id, kind=operation.kind)
                await self._ask_for_attention(operation, error)
                return
            if not moved:
                return
        self._dirty[operation_id] = None

    async def _move(self, operation: OperationState, saga: Saga) -> bool:
        """Make one move; False where the operation waits.

        It is decided on the facts, which may lag: then the append is refused, and it is decided
        again once they have caught up.
        """
        context = self._office.context()
        world = FactsWorld(self._facts)
        events = self._next_events(operation, saga, world, context)
        if not events:
            return False
        placed = {
            new.stream.partition("/")[2]: place
            for new in events
            if (place := _place_taken(new)) is not None
        }
        for vm, (host, runs, own) in placed.items():
            self._facts.reserve(vm, host, runs=runs, own=own)
        try:
            outcome = await self._commit(operation, context, events, world.reads)
        except BaseException:
            self._give_back(placed)
            raise
        if isinstance(outcome, Appended):
            await self._reach(outcome.last)
            return True
        self._give_back(placed)
        if isinstance(outcome, Claimed):
            log.info("a claim refused a move", operation=operation.id, key=outcome.key)
            self._put_off.add(operation.id)
            return False
        await self._catch_up(collect=True)
        return True

    def _next_events(
        self, operation: OperationState, saga: Saga, world: World, context: Context
    ) -> tuple[NewEvent, ...]:
        current = world.get(OPERATION, operation.id)
        if current is None or not current.open:
            return ()
        scene = Scene(
            operation=current,
            world=world,
            context=context,
            input=self._facts.position,
            choose=self._facts.choose,
            vms_on_target=self._facts.vms_on(operation.target_id),
            timeouts=self._timeouts,
            unconfirmed=self._facts.unconfirmed(),
            incarnations_from=self._facts.incarnations_from,
            hosts=self._facts.hosts,
            traffic=self._facts.traffic,
            plan=functools.partial(plan_of, self._facts),
        )
        try:
            return saga.advance(scene)
        except Refusal as refusal:
            return _refused(scene, saga, refusal)

    def _give_back(self, vms: Iterable[str]) -> None:
        for vm in vms:
            self._facts.give_back(vm)

    async def _commit(
        self,
        operation: OperationState,
        context: Context,
        events: Sequence[NewEvent],
        reads: dict[str, int],
    ) -> Appended | Claimed | Conflict:
        written = {event.stream: 0 for event in events}
        return await self._office.append(context, written | reads, events, operation.id)

    async def _ask_for_attention(self, operation: OperationState, error: Exception) -> None:
        reason = f"Its policy failed: {type(error).__name__}: {error}"[:500]
        if operation.attention == reason:
            return
        attention = e.OperationNeedsAttention(
            name=operation.name,
            reason=reason,
            waits_for="a mended policy",
            remedy="See the log of the policies' process; it is tried again at their next start.",
            input=self._facts.position,
        )
        stream = OPERATION.stream(operation.id)
        outcome = await self._office.append(
            self._office.context(),
            {stream: operation.version},
            (NewEvent(stream, attention),),
            operation.id,
        )
        if not isinstance(outcome, Appended):
            self._put_off.add(operation.id)

    async def _end_lost_runs(self) -> None:
        """End what ended with hosts that were proved off, or removed by force."""
        for vm_id, host_id in self._facts.lost():
            world = FactsWorld(self._facts)
            decision = end_lost(world, vm_id, host_id)
            await self._append_decided(decision, world)

    async def _withdraw_outdated(self) -> None:
        """Take back what was ordered before the log was restored and may be done or undone since.

        There is nothing of it but at a start: a restore happens while nothing runs.
        """
        for vm_id in self._outdated:
            world = FactsWorld(self._facts)
            decision = withdraw_outdated(world, vm_id)
            await self._append_decided(decision, world)
        self._outdated = [vm_id for vm_id in self._outdated if self._facts.has_outdated(vm_id)]

    async def _append_decided(self, decision: Decision, world: World) -> None:
        if decision.events:
            await self._office.append(self._office.context(), world.reads, decision.events)
        await self._catch_up(collect=True)

    async def _fire_timers(self) -> None:
        now = self._office.context().time
        for _due, operation_id, timer in self._facts.due(now):
            operation = self._facts.operations[operation_id]
            stream = OPERATION.stream(operation_id)
            await self._office.append(
                self._office.context(),
                {stream: operation.version},
                (NewEvent(stream, e.OperationTimerFired(timer=timer)),),
                operation_id,
            )
        await self._catch_up(collect=True)

    async def _begin_due(self) -> None:
        """Begin what the watches want begun, many at once, until they want no more for now."""
        for _round in range(_MOVES_MAX):
            context = self._office.context()
            batch = self._beginnings.due(self._facts, context.time, _AT_ONCE_MAX)
            if not batch:
                return
            await _all(self._begin(each) for each in batch)
            await self._catch_up(collect=True)

    def _wake(self) -> None:
        """Move operations again that wait for what does not happen to them."""
        now = self._office.context().time
        for operation in self._beginnings.woken(self._facts, now):
            self._dirty[operation] = None

    async def _begin(self, due: Due) -> None:
        """Begin an operation, unless it was begun before or its command refuses."""
        context = self._office.context()
        decided = self._beginnings.decide(due, FactsWorld(self._facts), context)
        if decided is None:
            return
        events, reads = decided
        operation = due.beginning.operation
        context = msgspec.structs.replace(context, command=operation)
        outcome = await self._office.append(context, reads, events, str(operation))
        self._beginnings.conclude(due, outcome)

    def _until_next_timer_s(self) -> float:
        if self._put_off or self._facts.lost():
            return _RETRY_S
        now = self._office.context().time
        wanted = (self._facts.next_due(), self._beginnings.next_due(now))
        due = [each for each in wanted if each is not None]
        if not due:
            return _WAIT_S_MAX
        return max(0.01, min(_WAIT_S_MAX, (min(due) - now).total_seconds()))


def _refused(scene: Scene, saga: Saga, refusal: Refusal) -> tuple[NewEvent, ...]:
    """Record a refusal: the step that could not be done, and the end of the operation."""
    over = {StepState.DONE, StepState.UNDONE}
    step = next((s.name for s in saga.steps if not scene.is_(s.name, *over)), saga.steps[-1].name)
    refused = scene.refused(step, f"{refusal.detail} {refusal.remedy}")
    return (*scene.own(refused), *scene.ended(e.Outcome.FAILED, refusal.detail))


def _place_taken(new: NewEvent) -> tuple[str, bool, Dedicated | None] | None:
    """Return the host that an event takes a place on, whether the VM is to run there now, and the
    CPUs that are its own then.
    """
    match new.event:
        case VmMigrationStarted():
            return new.event.destination, True, new.event.dedicated
        case VmPlaced():
            return new.event.host, True, new.event.spec.dedicated
        case VmDisksAssigned():
            return new.event.host, False, None
        case _:
            return None


async def _all(moves: Iterable[Awaitable[None]]) -> None:
    """Let several things be done beside each other; raise the worst that came of it."""
    ended = await asyncio.gather(*moves, return_exceptions=True)
    failures = [one for one in ended if isinstance(one, BaseException)]
    for failure in sorted(failures, key=lambda one: not isinstance(one, SupersededError)):
        raise failure


def new_process_name() -> str:
    """Return a name for this process, different at every start."""
    return f"policies-{uuid.uuid4()}"
