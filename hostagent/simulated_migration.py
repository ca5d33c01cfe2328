"""How VMs move between simulated hosts: the same line, the same tickets, a conversation of its own.

The source tells the destination what comes; the destination compares that with the run that it
expects, and has a domain that is held. Copying takes its time. At the switch-over the source's
domain is held, the destination's stands still, and the source's goes. A line that breaks before
that leaves the VM on the source and nothing at the destination, as with libvirt. Told to break off
in post-copy, it leaves half of the VM at either host until it is asked to go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator

import msgspec

from events.types.job import Job
from events.types.run_spec import RunSpec
from events.types.vm import DownReason, PauseReason
from events.wire.agent import IntentVm
from hostagent.convergence import Copying, Look, Move, Resort, Terms
from hostagent.driver import DriverError, HalfGoneError, Happening, RefusedMessageError
from hostagent.migration_line import OK, Dial, Streams
from hostagent.simulated import SimulatedDriver
from hostagent.simulated_state import MigrationFault, SimulatedDomain, tell

CHANNEL, RECOVER = "simulated", "simulated-recover"
GONE = "gone"
STEPS = 10
STEP_S_MAX = 0.2
ANSWER_TIMEOUT_S = 10.0
DIRTY_PART = 0.5
"""What part of a round's memory has changed by its end, in a guest that does not converge."""


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the conversation: from the source `domain` as it comes and, with `whole`, as it
    is at the switch-over, or, with `half`, that post-copy breaks off, which is noticed after
    `notice_s`; from the destination `refusal`, "" for yes.
    """

    domain: SimulatedDomain | None = None
    whole: bool = False
    half: bool = False
    notice_s: float = 0.0
    refusal: str = ""


class SimulatedMoves:
    """The moving half of a simulated host."""

    opening_channel = CHANNEL
    recovering_channel = RECOVER
    channels = frozenset({CHANNEL, RECOVER})

    def __init__(self, driver: SimulatedDriver) -> None:
        self._driver = driver

    async def prepare(self, spec: RunSpec, migration: str) -> None:
        """Be ready to take a run in."""

    async def forget(self, migration: str) -> None:
        """Nothing is left of a migration that is over."""

    async def still_sends(self, job: Job) -> bool:
        """Tell whether the hypervisor is still about to send a VM: it ends with its agent."""
        del job
        return False

    async def unattended(self, job: Job) -> Copying | None:
        """Return nothing: a simulated hypervisor does nothing without its agent."""
        del job
        return None

    async def recover(self, job: Job, dial: Dial, terms: Terms, look: Look) -> None:
        """Go on with post-copy that broke off."""
        del terms
        domain = self._find(job)
        if not domain.half or self._driver.machine.faults.migration_fault is MigrationFault.BREAK:
            raise DriverError("the simulated hypervisor was told to break off")
        try:
            reader, writer = await dial(RECOVER)
            try:
                total = domain.memory_bytes
                look(Copying(total_bytes=total, remaining_bytes=total // 2, post_copy=True))
                await _say(writer, Word(domain=domain, whole=True))
                await self._answered(reader)
            finally:
                writer.close()
        except RefusedMessageError as error:
            if str(error) == GONE:
                raise HalfGoneError("the destination has nothing of the VM any more") from error
            raise DriverError(str(error)) from error
        except asyncio.IncompleteReadError as error:
            raise DriverError(f"the destination does not go on: {error}") from error
        if self._driver.look().forget(domain):
            self._driver.changed(tell(Happening.ENDED, domain, reason=DownReason.MIGRATED))

    async def release(self, vm: str, incarnation: int) -> None:
        """Let a VM go on that is held at the switch-over."""
        domain = self._driver.look().find(vm, incarnation)
        if domain is not None and domain.held:
            domain.held, domain.leaving, domain.paused = False, False, None
            self._driver.changed(tell(Happening.CONTINUED, domain))

    # ------------------------------------------------------------------ taking in

    async def take_in(self, channel: str, item: IntentVm, outer: Streams) -> None:
        """Take a VM in."""
        reader, writer = outer
        writer.write(OK)
        if channel == RECOVER:
            await self._take_in_the_rest(item, outer)
            return
        coming = (await _hear(reader)).domain
        if item.spec is None or coming is None:
            raise RefusedMessageError("the VM is not expected any more")
        refusal = self._refusal(coming, item.spec)
        if refusal:
            await _say(writer, Word(refusal=refusal))
            raise RefusedMessageError(refusal)
        there = self._driver.look().receive(coming)
        self._driver.changed(tell(Happening.STARTED, there))
        try:
            await _say(writer, Word())
            while not (word := await _hear(reader)).whole or word.domain is None:
                if word.half:
                    self._driver.break_off(there, word.notice_s)
                    await _say(writer, Word())
            machine = self._driver.look()
            if machine.domains.get(there.vm) is not there:
                refusal = "the VM was dropped while it came in"
                await _say(writer, Word(refusal=refusal))
                raise RefusedMessageError(refusal)
            machine.settle(there, word.domain)
            self._driver.changed(tell(Happening.PAUSED, there))
            await _say(writer, Word())
        finally:
            self._drop(there)

    async def _take_in_the_rest(self, item: IntentVm, outer: Streams) -> None:
        reader, writer = outer
        whole = (await _hear(reader)).domain
        there = self._driver.look().find(item.vm, item.incarnation)
        if there is None or not there.half or whole is None:
            await _say(writer, Word(refusal=GONE))
            return
        if not there.held:
            await _say(writer, Word(refusal="its hypervisor has not noticed that the line broke"))
            return
        self._driver.look().settle(there, whole)
        there.paused = None  # in post-copy it runs from the start
        self._driver.changed(tell(Happening.CONTINUED, there))
        await _say(writer, Word())

    def _drop(self, there: SimulatedDomain) -> None:
        """Let go of what did not come in whole; also where the hypervisor is away by now."""
        if there.coming and self._driver.machine.forget(there):
            self._driver.changed(tell(Happening.ENDED, there, reason=DownReason.CRASHED))

    def _refusal(self, coming: SimulatedDomain, spec: RunSpec) -> str:
        machine = self._driver.look()
        if machine.faults.migration_fault is MigrationFault.REFUSE:
            return "the simulated hypervisor was told to take nothing in"
        differences = {
            "id": coming.vm != spec.vm,
            "incarnation": coming.incarnation != spec.incarnation,
            "machine type": coming.machine_type != spec.machine_type,
            "CPU model": coming.cpu_model != spec.cpu_model,
            "memory": coming.memory_bytes != spec.configuration.memory_bytes,
            "networks": coming.macs != tuple(nic.mac for nic in spec.configuration.nics),
        }
        wrong = [name for name, differs in differences.items() if differs]
        if wrong:
            return f"the VM that comes in differs in its {', '.join(wrong)}"
        try:
            self._driver.check(spec)
        except DriverError as error:
            return str(error)
        return "the VM is here already" if spec.vm in machine.domains else ""

    # ------------------------------------------------------------------ sending

    async def send(self, job: Job, dial: Dial, terms: Terms, look: Look) -> None:
        """Send a VM away."""
        domain = self._find(job)
        try:
            reader, writer = await dial(CHANNEL)
        except (RefusedMessageError, asyncio.IncompleteReadError) as error:
            raise DriverError(f"the destination does not take it in: {error}") from error
        try:
            await _say(writer, Word(domain=domain))
            await self._answered(reader)
            async with _heard_to_the_end(reader) as line:
                await self._copy(job, line, terms, look)
            await self._switch_over(job, reader, writer)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError) as error:
            self._stays(job)
            raise DriverError(f"the line to the destination broke: {error!r}") from error
        except RefusedMessageError as error:
            self._stays(job)
            raise DriverError(str(error)) from error
        finally:
            writer.close()

    def _find(self, job: Job) -> SimulatedDomain:
        domain = self._driver.look().find(job.vm, job.incarnation)
        if domain is None or not domain.announced:
            raise DriverError(f"incarnation {job.incarnation} of VM {job.vm} does not run here")
        return domain

    async def _answered(self, reader: asyncio.StreamReader) -> None:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            refusal = (await _hear(reader)).refusal
        if refusal:
            raise RefusedMessageError(refusal)

    async def _copy(self, job: Job, line: asyncio.Task[None], terms: Terms, look: Look) -> None:
        """Let time pass as copying would; raises DriverError where that comes to nothing."""
        faults = self._driver.look().faults
        total = self._find(job).memory_bytes
        left, copied, round_number = float(total), 0, 1
        post_copy = suspended = False
        while True:
            round_s = faults.migration_s * left / total
            steps = max(STEPS, math.ceil(round_s / STEP_S_MAX))
            for step in range(steps):
                seen = Copying(
                    total_bytes=total,
                    remaining_bytes=int(left * (steps - step) / steps),
                    copied_bytes=copied + int(left * step / steps),
                    round_number=round_number,
                    post_copy=post_copy,
                    stopped=suspended,
                )
                post_copy, suspended = _heed(look(seen), terms, (post_copy, suspended))
                if (await asyncio.wait({line}, timeout=round_s / steps))[0]:
                    line.result()
                self._find(job)
            if faults.migration_fault is MigrationFault.FAIL:
                raise DriverError("the simulated hypervisor was told to fail a migration")
            copied += int(left)
            if post_copy or suspended or not faults.migration_busy:
                return
            # What the guest wrote meanwhile: never less than before.
            left = total * DIRTY_PART
            round_number += 1

    async def _switch_over(
        self, job: Job, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        domain = self._find(job)
        before = msgspec.structs.replace(domain)
        domain.leaving, domain.held, domain.paused = True, True, PauseReason.OTHER
        self._driver.changed(tell(Happening.PAUSED, domain))
        faults = self._driver.machine.faults
        if faults.migration_fault is MigrationFault.BREAK:
            self._driver.break_off(domain)
            await _say(writer, Word(half=True, notice_s=faults.notice_s))
            await self._answered(reader)
            raise DriverError("the simulated hypervisor broke off in post-copy")
        if self._driver.machine.faults.migration_fault is MigrationFault.HOLD:
            domain.leaving = False  # nobody lets it go again
            self._driver.changed()
            await _say(writer, Word(domain=before, whole=True))
            await self._answered(reader)
            raise DriverError("the simulated hypervisor died at the switch-over")
        await _say(writer, Word(domain=before, whole=True))
        await self._answered(reader)
        if self._driver.look().forget(domain):
            self._driver.changed(tell(Happening.ENDED, domain, reason=DownReason.MIGRATED))

    def _stays(self, job: Job) -> None:
        """Let a VM run on that was held for a switch-over which did not come about."""
        domain = self._driver.machine.find(job.vm, job.incarnation)
        if domain is not None and domain.leaving:
            domain.leaving, domain.held, domain.paused = False, False, None
            self._driver.changed(tell(Happening.CONTINUED, domain))


def _heed(move: Move, terms: Terms, state: tuple[bool, bool]) -> tuple[bool, bool]:
    """Return whether the VM is in post-copy, and whether it is suspended, after a move."""
    post_copy, suspended = state
    match move.resort:
        case Resort.ABORT:
            raise DriverError("the migration was aborted")
        case Resort.POST_COPY:
            return terms.may_post_copy, suspended
        case Resort.SUSPEND:
            return post_copy, True
        case _:
            return state


@contextlib.asynccontextmanager
async def _heard_to_the_end(reader: asyncio.StreamReader) -> AsyncIterator[asyncio.Task[None]]:
    """Notice if the line breaks while nobody has anything to say: then the task raises."""
    end = asyncio.ensure_future(_until_end(reader))
    try:
        yield end
    finally:
        end.cancel()
        await asyncio.gather(end, return_exceptions=True)


async def _until_end(reader: asyncio.StreamReader) -> None:
    raise RefusedMessageError((await _hear(reader)).refusal or "it speaks out of turn")


async def _say(writer: asyncio.StreamWriter, word: Word) -> None:
    writer.write(msgspec.json.encode(word) + b"\n")
    await writer.drain()


async def _hear(reader: asyncio.StreamReader) -> Word:
    return msgspec.json.decode(await reader.readuntil(b"\n"), type=Word)
