"""Sending a run to another host by libvirt: copying its memory, and helping that to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from hostagent.convergence import Copying, Look, Move, Resort, Terms
from hostagent.driver import DriverError
from hostagent.libvirt_events import Paused
from hostagent.libvirt_port import Connection, Hypervisor, Listed, LostConnectionError
from hostagent.libvirt_watch import Watch

LOOK_INTERVAL_S = 0.3

log = structlog.get_logger()
Begin = Callable[[Connection, str, str, str, Terms], None]


class Sender:
    """`needed` finds a run that must be here; it raises DriverError."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        watch: Watch,
        needed: Callable[[str, int], Awaitable[Listed]],
    ) -> None:
        self._hypervisor = hypervisor
        self._watch = watch
        self._needed = needed

    async def send(self, vm: str, incarnation: int, folder: Path, terms: Terms, look: Look) -> None:
        """Move a run to where the sockets in `folder` lead; there it stands still, unless it came
        to post-copy.

        `look` is shown how far copying is. Raises DriverError where it failed; whether it did is
        known only from what is here afterwards.
        """
        await self._needed(vm, incarnation)
        await self._to_the_end(self._hypervisor.migrate, vm, folder, terms, look)

    async def recover(
        self, vm: str, incarnation: int, folder: Path, terms: Terms, look: Look
    ) -> None:
        """Go on with post-copy that broke off; else as `send`."""
        listed = await self._needed(vm, incarnation)
        if listed.paused != Paused.POSTCOPY_FAILED:
            raise DriverError("the VM is not held in post-copy")
        await self._to_the_end(self._hypervisor.recover, vm, folder, terms, look)

    async def _to_the_end(
        self, begin: Begin, vm: str, folder: Path, terms: Terms, look: Look
    ) -> None:
        libvirtd = f"qemu+unix:///system?socket={folder / 'libvirt.sock'}"
        stream = f"unix://{folder / 'qemu.sock'}"
        moving = asyncio.ensure_future(
            self._watch.call(lambda lv: begin(lv, vm, libvirtd, stream, terms), long=True)
        )
        try:
            while not (await asyncio.wait({moving}, timeout=LOOK_INTERVAL_S))[0]:
                seen = await self.copying(vm)
                if seen is not None:
                    await self._do(vm, look(seen))
            await moving
        finally:
            moving.cancel()
            if moving.done() and not moving.cancelled():
                moving.exception()

    async def copying(self, vm: str) -> Copying | None:
        """Return how far a run's sending, or any job on it, has come; None if there is none."""
        try:
            return await self._watch.call(lambda lv: self._hypervisor.copying(lv, vm))
        except LostConnectionError:
            raise
        except DriverError:
            return None

    async def still_sends(self, vm: str, incarnation: int) -> bool:
        """Tell whether libvirt is about to bring a run's sending to an end.

        Post-copy that broke is not: its job stays, for somebody to mend the line by hand.
        """
        listed = await self._needed(vm, incarnation)
        if listed.paused == Paused.POSTCOPY_FAILED:
            return False
        return await self.copying(vm) is not None

    async def in_post_copy(self, vm: str, incarnation: int) -> bool:
        """Tell whether a run goes on at its destination already, and never again here."""
        listed = await self._needed(vm, incarnation)
        return listed.paused in {Paused.POSTCOPY, Paused.POSTCOPY_FAILED}

    async def live_xml(self, vm: str, incarnation: int, *, secrets: bool = False) -> str:
        """Return the XML of a run as it is, with the CPU and machine that it really has."""
        await self._needed(vm, incarnation)
        return await self._watch.call(lambda lv: self._hypervisor.live_xml(lv, vm, secrets=secrets))

    async def release(self, vm: str, incarnation: int) -> None:
        """Let a run go on that libvirt stopped for the switch-over; raises DriverError if it is in
        post-copy, from which there is no way back.
        """
        listed = await self._needed(vm, incarnation)
        if listed.paused != Paused.MIGRATION:
            raise DriverError("the VM is not held at the switch-over of a migration")
        await self._watch.call(lambda lv: self._hypervisor.resume(lv, vm))

    async def _do(self, vm: str, move: Move) -> None:
        """Take a policy's step. The migration may be over by now, which refuses it."""
        hypervisor, down_time_ms = self._hypervisor, move.down_time_ms
        try:
            if down_time_ms is not None:
                log.info("longer_down_time", vm=vm, down_time_ms=down_time_ms)
                await self._watch.call(lambda lv: hypervisor.allow_down_time(lv, vm, down_time_ms))
            if move.resort is not None:
                log.info("last_resort", vm=vm, resort=move.resort)
            match move.resort:
                case Resort.ABORT:
                    await self._watch.call(lambda lv: hypervisor.abort_job(lv, vm))
                case Resort.POST_COPY:
                    await self._watch.call(lambda lv: hypervisor.start_post_copy(lv, vm))
                case Resort.SUSPEND:
                    await self._watch.call(lambda lv: hypervisor.suspend(lv, vm))
                case _:
                    pass
        except DriverError as error:
            log.info("step_refused", vm=vm, move=msgspec.to_builtins(move), reason=str(error))
