"""Keeps the host's memory as its cluster wants it: merges equal pages, and moves balloons.

It looks every few seconds and acts on what it finds, so that nothing has to be remembered: an agent
that comes back goes on from what the kernel and QEMU say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from events.types.host_memory import Ksm, MemoryPolicy
from events.wire.agent import IntentVm, Role
from hostagent.balloon_port import BalloonReading, Balloons
from hostagent.balloon_watch import BalloonWatch
from hostagent.desk import Desk
from hostagent.driver import DriverError
from hostagent.memory_files import HostMemory, MemoryFiles
from hostagent.memory_policy import Balloon, balloon_targets, is_short, ksm_writes
from hostagent.records import RunKey

_log = structlog.get_logger(__name__)


class MemorySetup(msgspec.Struct, frozen=True):
    """What is needed to keep a host's memory.

    `marker` is a file that is there while KSM is this agent's affair: what somebody else has
    started is left alone until the host's cluster has KSM.
    """

    balloons: Balloons
    files: MemoryFiles
    marker: Path


class MemoryKeeper:
    """Keeps one host's memory, by the policy that lies at the desk."""

    def __init__(self, desk: Desk, setup: MemorySetup) -> None:
        self._desk = desk
        self._balloons = setup.balloons
        self._files = setup.files
        self._marker = setup.marker
        self._problem = ""
        self._watch = BalloonWatch()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            policy = self._desk.memory
            if policy is not None:
                try:
                    await self.look(policy)
                except Exception as error:  # noqa: BLE001 - never the end of the agent
                    _log.warning("memory not looked at", error=repr(error))
            await asyncio.sleep(self._desk.timings.memory_interval_s)

    async def look(self, policy: MemoryPolicy) -> None:
        """Look once, and do what is to be done; raises DriverError and OSError."""
        memory = await asyncio.to_thread(self._files.memory)
        async with asyncio.timeout(self._desk.timings.call_timeout_s):
            readings = await self._balloons.read()
        guests_bytes = sum(each.current_bytes for each in readings.values())
        await asyncio.to_thread(self._keep_ksm, policy, memory, guests_bytes)
        balloons = self._movable(readings)
        self._watch_balloons(balloons, memory, enabled=policy.ballooning)
        targets = balloon_targets(memory, balloons, enabled=policy.ballooning)
        self._watch.asked(balloons, targets)
        for key, size_bytes in targets.items():
            try:
                async with asyncio.timeout(self._desk.timings.call_timeout_s):
                    await self._balloons.set(key, size_bytes)
            except (DriverError, TimeoutError) as error:
                _log.info("balloon not moved", vm=key.vm, error=str(error) or repr(error))
            else:
                _log.info("balloon moved", vm=key.vm, size_bytes=size_bytes)

    def ksm(self) -> Ksm | None:
        """Return what the kernel says of KSM; None where it has none."""
        state = self._files.ksm()
        if state is None:
            return None
        return Ksm(
            running=state.run == 1,
            merge_across_nodes=state.merge_across_nodes,
            saved_bytes=state.saved_bytes,
            problem=self._problem,
        )

    def _watch_balloons(
        self, balloons: Sequence[Balloon], memory: HostMemory, *, enabled: bool
    ) -> None:
        """Tell the engine of balloons that do not do what they are asked, and of the end of it."""
        short = is_short(memory)
        changed = self._watch.look(balloons, enabled=enabled, short=short)
        self._desk.balloons = dict(self._watch.problems)
        for key in sorted(changed):
            self._desk.tell_run(key)

    def _keep_ksm(self, policy: MemoryPolicy, memory: HostMemory, guests_bytes: int) -> None:
        ours = self._marker.exists()
        if not (policy.ksm or ours):
            return
        state = self._files.ksm()
        if state is None:
            return
        if not ours:
            self._marker.touch()
        problem = ""
        for write in ksm_writes(policy, state, memory, guests_bytes):
            try:
                self._files.write_ksm(write.name, write.value)
            except OSError as error:
                problem = f"{write.name} cannot be set to {write.value}: {error.strerror}"
                break
        if not (policy.ksm or problem):
            self._marker.unlink()
        if problem and problem != self._problem:
            _log.warning("KSM not kept", problem=problem)
        self._problem = problem

    def _movable(self, readings: Mapping[RunKey, BalloonReading]) -> Sequence[Balloon]:
        """Return the balloons of guests that run here and neither come nor go."""
        found = []
        for key, reading in readings.items():
            item, domain = self._desk.intent.get(key), self._desk.domains.get(key)
            if item is None or domain is None or domain.paused or not _runs(item):
                continue
            assert item.spec is not None  # noqa: S101 - `_runs` has looked
            configuration = item.spec.configuration
            if not configuration.ballooning or configuration.tuning.huge_page_bytes is not None:
                continue  # memory of huge pages is of no use to other guests
            found.append(
                Balloon(
                    key=key,
                    defined_bytes=reading.defined_bytes,
                    guaranteed_bytes=item.spec.memory_kept_bytes,
                    current_bytes=reading.current_bytes,
                    usable_bytes=reading.usable_bytes,
                )
            )
        return found


def _runs(item: IntentVm) -> bool:
    return item.role is Role.RUN and item.spec is not None and item.receiving is None
