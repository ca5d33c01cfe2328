"""What admins do in a run, drawn from the world's dice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from commands.affinity.create_group import CreateAffinityGroup
from commands.host.activate import ActivateHost
from commands.host.confirm_off import ConfirmHostOff
from commands.host.maintenance import MaintainHost
from commands.kernel.refusal import Refusal
from commands.operation.cancel import CancelOperation
from commands.state.availability_input import HighAvailabilityInput, StartWithHostInput
from commands.state.tuning_input import TuningInput
from commands.state.vm import VmStatus
from commands.vm.create import CreateVm, DiskInput
from commands.vm.migrate import MigrateVm
from commands.vm.reboot import RebootVm
from commands.vm.remove import RemoveVm
from commands.vm.resume import ResumeVm
from commands.vm.shutdown import ShutDownVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from commands.vm.suspend import SuspendVm
from events.types.vm_tuning import CpuPolicy
from tests.simulation.clients import NoAnswerError
from tests.simulation.edits import Edits
from tests.simulation.world import World

VMS_MAX = 6
MIB = 1024 * 1024
OWN_CPUS = TuningInput(cpu_policy=CpuPolicy.DEDICATED)
OWN_CPUS_EVERY = 3
"""Every third VM has CPUs of its own."""


class Admins:
    """Admins who give commands at random, whatever the state of things."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._made = 0
        self._edits = Edits(world)

    async def work(self, mean_pause_s: float) -> None:
        """Give commands for ever."""
        dice = self._world.dice
        while True:
            await asyncio.sleep(dice.expovariate(1 / mean_pause_s))
            self._world.begin(self.give(self._draw()))

    async def give(self, command: Any) -> bool:
        """Give one command; return whether it was accepted: a refusal is an answer like another."""
        world = self._world
        if command is None:
            return False
        try:
            # What somebody has seen with own eyes is true when it is said, not minutes later.
            if isinstance(command, ConfirmHostOff):
                await world.do(command)
            else:
                made = await world.give(command)
                if isinstance(command, CreateAffinityGroup):
                    self._edits.groups.append(made)
        except Refusal as refusal:
            world.refused += 1
            world.note(f"refused: {command} ({refusal.detail})")
            return False
        except NoAnswerError:
            world.note(f"no answer: {command}")
            return False
        world.note(f"accepted: {command}")
        return True

    def _draw(self) -> Any:
        dice, vms = self._world.dice, self._world.vms()
        there = sorted(key for key, vm in vms.items() if vm.status is not VmStatus.REMOVED)
        if len(there) < VMS_MAX and dice.random() < 0.4:
            self._made += 1
            disks = (DiskInput(size_bytes=64 * MIB),) if dice.random() < 0.5 else ()
            return CreateVm(
                name=f"vm{self._made}",
                cluster=self._world.cluster,
                disks=disks,
                high_availability=_priority(dice) if dice.random() < 0.5 else None,
                start_with_host=StartWithHostInput() if dice.random() < 0.3 else None,
                # Not by the dice, so that every seed plays as it did before there was this.
                tuning=OWN_CPUS if self._made % OWN_CPUS_EVERY == 0 else None,
            )
        if dice.random() < 0.12:
            return self._draw_host()
        if dice.random() < 0.15:
            return self._edits.draw(there)
        if dice.random() < 0.1 and self._world.accepted:
            return CancelOperation(id=dice.choice(self._world.accepted[-6:]))
        if not there:
            return None
        vm = dice.choice(there)
        choices: list[tuple[Callable[[], Any], float]] = [
            (lambda: StartVm(id=vm, discard_saved_memory=dice.random() < 0.3), 8),
            (lambda: StopVm(id=vm), 3),
            (lambda: ShutDownVm(id=vm, timeout_s=30), 2),
            (lambda: RebootVm(id=vm), 1),
            (lambda: SuspendVm(id=vm), 3),
            (lambda: ResumeVm(id=vm), 3),
            (lambda: RemoveVm(id=vm), 1),
            (lambda: MigrateVm(id=vm, host=self._draw_destination()), 5),
        ]
        (make,) = dice.choices([c for c, _ in choices], [weight for _, weight in choices])
        return make()

    def _draw_destination(self) -> str | None:
        return self._world.dice.choice([None, *sorted(self._world.hosts)])

    def _draw_host(self) -> Any:
        host = self._world.dice.choice(sorted(self._world.hosts))
        if self._world.dice.random() < 0.6:
            return ActivateHost(id=host)
        return MaintainHost(id=host, reason="because")


def _priority(dice: random.Random) -> HighAvailabilityInput:
    return HighAvailabilityInput(priority=dice.randrange(1, 101))
