"""What an agent writes down, and what follows from it: records of the journal and their fold.

`Remembered` is the fold. It answers the questions that keep a VM from running twice: was this
incarnation ever begun here, is it promised never to start again, was this job begun, how did it
end. The fold is pure; `hostagent.journal` makes the records durable.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from events.types.host_power import FenceAction
from events.types.job import JobKind
from events.types.vm import DownReason
from events.wire.agent import FenceItem, JobState

JOB_RECORDS_MAX = 10_000
"""Jobs with an outcome beyond this number are forgotten, oldest first."""


class RunKey(NamedTuple):
    """One incarnation of one VM."""

    vm: str
    incarnation: int


class Begun(msgspec.Struct, frozen=True, kw_only=True, tag="begun"):
    """The agent is about to start an incarnation, in the host's boot `boot`."""

    vm: str
    incarnation: int
    boot: str
    restored: bool = False
    time: dt.datetime


class Expected(msgspec.Struct, frozen=True, kw_only=True, tag="expected"):
    """The incarnation may come in by this migration from now on; what was before it is over."""

    vm: str
    incarnation: int
    boot: str
    migration: str
    time: dt.datetime


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The incarnation runs: it was started, or found running."""

    vm: str
    incarnation: int
    time: dt.datetime


class Up(msgspec.Struct, frozen=True, kw_only=True, tag="up"):
    """The guest of the incarnation was seen up."""

    vm: str
    incarnation: int


class Resets(msgspec.Struct, frozen=True, kw_only=True, tag="resets"):
    """The guest was reset `count` times so far."""

    vm: str
    incarnation: int
    count: int


class Tombstone(msgspec.Struct, frozen=True, kw_only=True, tag="tombstone"):
    """The incarnation is not running here and never starts here again; `reason` is why it ended."""

    vm: str
    incarnation: int
    reason: DownReason
    detail: str = ""
    time: dt.datetime


class JobBegun(msgspec.Struct, frozen=True, kw_only=True, tag="job_begun"):
    """The agent is about to do a job."""

    job: str
    kind: JobKind
    vm: str
    incarnation: int
    time: dt.datetime


class JobEnded(msgspec.Struct, frozen=True, kw_only=True, tag="job_ended"):
    """The job is done or failed, for good; `elsewhere`: another destination may be tried."""

    job: str
    state: JobState
    reason: str = ""
    elsewhere: bool = False


class JobForgotten(msgspec.Struct, frozen=True, kw_only=True, tag="job_forgotten"):
    """The engine asks for the job no more, so its outcome is of no use."""

    job: str


class FenceBegun(msgspec.Struct, frozen=True, kw_only=True, tag="fence_begun"):
    """The agent is about to do something with the power of another host."""

    order: str
    host: str
    action: FenceAction
    time: dt.datetime


class FenceEnded(msgspec.Struct, frozen=True, kw_only=True, tag="fence_ended"):
    """What came of it, for good."""

    item: FenceItem


class FenceForgotten(msgspec.Struct, frozen=True, kw_only=True, tag="fence_forgotten"):
    """The engine asks for it no more, so its outcome is of no use."""

    order: str


class Lost(msgspec.Struct, frozen=True, kw_only=True, tag="lost"):
    """An earlier journal was lost or damaged: what was begun here is not wholly known."""


class LossAnswered(msgspec.Struct, frozen=True, kw_only=True, tag="loss_answered"):
    """After a loss, the engine was told all that runs here: from now on things may start."""


Record = (
    Begun
    | Expected
    | Done
    | Up
    | Resets
    | Tombstone
    | JobBegun
    | JobEnded
    | JobForgotten
    | FenceBegun
    | FenceEnded
    | FenceForgotten
    | Lost
    | LossAnswered
)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one incarnation; `boot` is "" if it was never begun here."""

    vm: str
    incarnation: int
    boot: str = ""
    arrival: str = ""
    restored: bool = False
    begun: dt.datetime | None = None
    done: dt.datetime | None = None
    up: bool = False
    resets: int = 0
    tombstone: Tombstone | None = None

    def records(self) -> Iterator[Record]:
        """Yield the records from which this follows."""
        vm, incarnation = self.vm, self.incarnation
        if self.arrival and self.begun is not None:
            yield Expected(
                vm=vm,
                incarnation=incarnation,
                boot=self.boot,
                migration=self.arrival,
                time=self.begun,
            )
        if self.tombstone is not None:
            # A run that is over needs no more than its promise, and whether it used up a memory.
            yield self.tombstone
        begun_here = self.begun is not None and not self.arrival
        if self.begun is not None and begun_here and (self.tombstone is None or self.restored):
            yield Begun(
                vm=vm,
                incarnation=incarnation,
                boot=self.boot,
                restored=self.restored,
                time=self.begun,
            )
        if self.tombstone is not None:
            return
        if self.tombstone is not None:
            yield self.tombstone
            return
        if self.done is not None:
            yield Done(vm=vm, incarnation=incarnation, time=self.done)
        if self.up:
            yield Up(vm=vm, incarnation=incarnation)
        if self.resets:
            yield Resets(vm=vm, incarnation=incarnation, count=self.resets)


class JobMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one job; `state` is None while it has no outcome."""

    job: str
    kind: JobKind | None = None
    vm: str = ""
    incarnation: int = 0
    begun: dt.datetime | None = None
    state: JobState | None = None
    reason: str = ""
    elsewhere: bool = False

    def records(self) -> Iterator[Record]:
        """Yield the records from which this follows."""
        if self.kind is not None and self.begun is not None:
            yield JobBegun(
                job=self.job,
                kind=self.kind,
                vm=self.vm,
                incarnation=self.incarnation,
                time=self.begun,
            )
        if self.state is not None:
            yield JobEnded(
                job=self.job, state=self.state, reason=self.reason, elsewhere=self.elsewhere
            )


class FenceMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of an order about another host's power."""

    begun: FenceBegun | None = None
    ended: FenceItem | None = None

    def records(self) -> Iterator[Record]:
        """Yield the records from which this follows."""
        if self.begun is not None:
            yield self.begun
        if self.ended is not None:
            yield FenceEnded(item=self.ended)


class Remembered:
    """The fold of a journal's records."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.runs: dict[RunKey, Run] = {}
        self.jobs: dict[str, JobMemory] = {}
        self.fences: dict[str, FenceMemory] = {}
        self.lost = False
        self._incarnations: dict[str, set[int]] = {}
        for record in records:
            self.apply(record)

    def incarnations(self, vm: str) -> frozenset[int]:
        """Return the incarnations of a VM that were begun or tombstoned here."""
        return frozenset(self._incarnations.get(vm, ()))

    def open_runs(self) -> Iterator[Run]:
        """Yield the runs that were begun here and are not known to be over."""
        return (run for run in self.runs.values() if run.tombstone is None)

    def apply(self, record: Record) -> None:
        """Take up one record; a record that says what is known already changes nothing."""
        match record:
            case Expected():
                key = RunKey(record.vm, record.incarnation)
                self.runs[key] = Run(
                    vm=key.vm,
                    incarnation=key.incarnation,
                    boot=record.boot,
                    arrival=record.migration,
                    begun=record.time,
                )
                self._incarnations.setdefault(key.vm, set()).add(key.incarnation)
            case Begun() | Done() | Up() | Resets() | Tombstone():
                self._apply_to_run(record)
            case JobBegun() | JobEnded():
                self._apply_to_job(record)
            case JobForgotten():
                self.jobs.pop(record.job, None)
            case FenceBegun() | FenceEnded() | FenceForgotten():
                self._apply_to_fence(record)
            case Lost():
                self.lost = True
            case LossAnswered():
                self.lost = False

    def _apply_to_run(self, record: Begun | Done | Up | Resets | Tombstone) -> None:
        key = RunKey(record.vm, record.incarnation)
        run = self.runs.get(key) or Run(vm=key.vm, incarnation=key.incarnation)
        match record:
            case Begun():
                run = msgspec.structs.replace(
                    run, boot=record.boot, restored=record.restored, begun=record.time
                )
            case Done():
                run = msgspec.structs.replace(run, done=run.done or record.time)
            case Up():
                run = msgspec.structs.replace(run, up=True)
            case Resets():
                run = msgspec.structs.replace(run, resets=max(run.resets, record.count))
            case Tombstone():
                # The first reason stays: it is the one that may have been reported.
                run = msgspec.structs.replace(run, tombstone=run.tombstone or record)
        self.runs[key] = run
        self._incarnations.setdefault(key.vm, set()).add(key.incarnation)

    def _apply_to_job(self, record: JobBegun | JobEnded) -> None:
        known = self.jobs.get(record.job) or JobMemory(job=record.job)
        match record:
            case JobBegun():
                known = msgspec.structs.replace(
                    known,
                    kind=record.kind,
                    vm=record.vm,
                    incarnation=record.incarnation,
                    begun=record.time,
                )
            case JobEnded():
                known = msgspec.structs.replace(
                    known, state=record.state, reason=record.reason, elsewhere=record.elsewhere
                )
        self.jobs[record.job] = known

    def _apply_to_fence(self, record: FenceBegun | FenceEnded | FenceForgotten) -> None:
        match record:
            case FenceBegun():
                self.fences[record.order] = FenceMemory(begun=record)
            case FenceEnded():
                known = self.fences.get(record.item.order) or FenceMemory()
                self.fences[record.item.order] = msgspec.structs.replace(known, ended=record.item)
            case FenceForgotten():
                self.fences.pop(record.order, None)

    def compacted(self, keep: frozenset[RunKey] = frozenset()) -> list[Record]:
        """Return the fewest records that remember the same, and forget in memory what they drop.

        Of a VM's tombstones the newest stands for all older ones, except those in `keep`.
        """
        newest_tombstone: dict[str, int] = {}
        for key, run in self.runs.items():
            if run.tombstone is not None:
                newest_tombstone[key.vm] = max(newest_tombstone.get(key.vm, 0), key.incarnation)
        self.runs = {
            key: run
            for key, run in self.runs.items()
            if run.tombstone is None or key in keep or key.incarnation == newest_tombstone[key.vm]
        }
        self._incarnations = {}
        for key in self.runs:
            self._incarnations.setdefault(key.vm, set()).add(key.incarnation)
        ended = [job for job, known in self.jobs.items() if known.state is not None]
        for job in ended[: max(0, len(ended) - JOB_RECORDS_MAX)]:
            del self.jobs[job]
        records: list[Record] = [Lost()] if self.lost else []
        for run in self.runs.values():
            records.extend(run.records())
        for known in self.jobs.values():
            records.extend(known.records())
        for fence in self.fences.values():
            records.extend(fence.records())
        return records
