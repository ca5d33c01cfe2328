"""Seeded storms: everything goes wrong at once, and afterwards all is as it should be."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping

import pytest

from events.types.job import JobKind
from events.types.run_spec import RunSpec
from events.types.vm import DownReason
from events.wire.agent import Role, VmState
from hostagent.driver import DriverError
from hostagent.records import RunKey
from hostagent.simulated_state import Control, Do, Faults, Machine, SimulatedDomain, Volume
from tests.unit.hostagent.conftest import Host
from tests.unit.hostagent.samples import a_job, run_item

VMS = [f"018f0000-0000-7000-8000-{number:012d}" for number in range(4)]
STEPS = 120
KINDS = (JobKind.VM_SHUTDOWN, JobKind.VM_REBOOT, JobKind.VM_SUSPEND, JobKind.VM_CONTINUE)


class Storm:
    """A host in trouble; the engine behaves as the contract says."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host = host
        self.dice = random.Random(seed)
        self.newest = dict.fromkeys(VMS, 0)
        self.deeds = (
            (16, self.order),
            (6, self.job),
            (3, self.withdraw_job),
            (3, self.end),
            (4, self.happen),
            (3, self.restart),
            (1, self.power_cycle),
            (3, self.engine_away),
            (3, self.hypervisor_away),
            (2, self.another_session),
            (2, self.lose_answers),
            (2, self.fail_starts),
        )

    async def blow(self) -> None:
        weights = [weight for weight, _ in self.deeds]
        for _ in range(STEPS):
            deed = self.dice.choices(self.deeds, weights)[0][1]
            await deed()
            await asyncio.sleep(self.dice.choice((0, 0.005, 0.02, 0.05)))

    async def calm(self) -> None:
        """Heal everything; then each VM must come to what was wanted last."""
        engine = self.host.engine
        engine.away, engine.lose_answers = False, 0
        self.host.faults()
        await engine.until(lambda _: self.settled(), 10)

    def settled(self) -> bool:
        engine, domains = self.host.engine, self.host.driver._machine.domains
        for key, item in engine.vms.items():
            state = engine.states.get(key)
            if state is None or item.role is Role.ABSENT:
                return False
            if state.state not in {VmState.RUNNING, VmState.PAUSED} or key.vm not in domains:
                return False
        if engine.jobs or any(
            RunKey(d.vm, d.incarnation) not in engine.vms for d in domains.values()
        ):
            return False
        return self.host.agent.desk.session == engine.session

    async def order(self) -> None:
        """Place a VM again, once its last run is known to be over."""
        vm = self.dice.choice(VMS)
        key = RunKey(vm, self.newest[vm])
        if key not in self.host.engine.vms:
            self.newest[vm] += 1
            self.host.engine.order(run_item(vm, self.newest[vm]))

    async def end(self) -> None:
        for key, item in list(self.host.engine.vms.items()):
            if item.role is Role.RUN and self.dice.random() < 0.5:
                reason = DownReason.ADMIN if item.started else DownReason.WITHDRAWN
                self.host.engine.absent(key.vm, key.incarnation, reason=reason)

    async def job(self) -> None:
        for key, item in list(self.host.engine.vms.items()):
            taken = any(job.vm == key.vm for job in self.host.engine.jobs.values())
            if item.started and item.role is Role.RUN and not taken and self.dice.random() < 0.5:
                memory = f"{key.vm}/memory-{key.incarnation}.save"
                self.host.engine.order_job(
                    a_job(
                        self.dice.choice(KINDS),
                        vm=key.vm,
                        incarnation=key.incarnation,
                        saved_memory=memory,
                        timeout_s=0.5,
                    )
                )

    async def withdraw_job(self) -> None:
        for job in list(self.host.engine.jobs.values()):
            if self.dice.random() < 0.5:
                self.host.engine.withdraw(job)

    async def happen(self) -> None:
        do = self.dice.choice((Do.CRASH, Do.GUEST_POWER_OFF, Do.RESET, Do.PAUSE))
        self.host.driver.control(Control(do=do, vm=self.dice.choice(VMS)))

    async def restart(self) -> None:
        await self.host.kill()
        await asyncio.sleep(self.dice.choice((0, 0.02)))
        await self.host.start(Faults(start_s=self.dice.choice((0, 0.03))))

    async def power_cycle(self) -> None:
        await self.host.kill()
        self.host.driver.power_off()
        await self.host.start(Faults())

    async def engine_away(self) -> None:
        self.host.engine.away = self.dice.random() < 0.4

    async def hypervisor_away(self) -> None:
        self.host.faults(
            away=self.dice.random() < 0.5,
            start_s=self.dice.choice((0, 0.03)),
            save_s=self.dice.choice((0, 0.03)),
            deaf=self.dice.random() < 0.3,
        )

    async def another_session(self) -> None:
        self.host.engine.replace_session()

    async def lose_answers(self) -> None:
        self.host.engine.lose_answers = 1

    async def fail_starts(self) -> None:
        self.host.faults(start_failures=1, start_s=self.dice.choice((0, 0.05)))


@pytest.mark.parametrize("seed", range(6))
async def test_after_any_storm_all_is_as_wanted(
    host: Host, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: Counter[RunKey] = Counter()
    really = Machine.admit

    def admit(
        machine: Machine, spec: RunSpec, volumes: Mapping[str, Volume], now: float
    ) -> SimulatedDomain:
        key = RunKey(spec.vm, spec.incarnation)
        state = host.engine.states.get(key)
        assert state is None or state.state is not VmState.ABSENT, f"{key} was absent"
        try:
            domain = really(machine, spec, volumes, now)
        except DriverError:
            starts[key] += 1
            raise
        starts[key] += 1
        return domain

    monkeypatch.setattr(Machine, "admit", admit)
    await host.start()
    storm = Storm(host, seed)

    await storm.blow()
    await storm.calm()

    assert not [key for key, count in starts.items() if count > 1]
    assert starts, "the storm was no storm"
    assert host.engine.violations == []
