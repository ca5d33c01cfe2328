"""CPUs that are a VM's alone are kept free of all else, and only as long as they are."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from events.types.run_spec import RunSpec
from events.types.vm_tuning import CpuPin, Dedicated, Tuning
from events.wire.agent import IntentVm, Role
from hostagent.cpu_keeper import ONLINE, CpuKeeper, CpuSetup, places_of
from hostagent.desk import Desk
from hostagent.driver import Domain
from hostagent.journal import Journal
from hostagent.libvirt_processes import ProcessTable
from hostagent.qemu_threads import QemuThreads
from hostagent.records import RunKey
from hostagent.simulated import SimulatedDriver
from hostagent.timings import Timings
from tests.unit.hostagent.samples import OTHER, VM, a_spec

STRANGER = "018f0000-0000-7000-8000-00000000000f"
ALL = frozenset(range(8))
NAMES = ("qemu-system-x86", "CPU 0/KVM", "CPU 1/KVM", "IO mon_iothread")


class Kernel:
    """Threads of QEMUs: pid 10 runs VM, 20 OTHER, 30 a stranger. Thread ids are pid + n."""

    def __init__(self) -> None:
        self.pids = {VM: 10, OTHER: 20, STRANGER: 30}
        self.threads = {pid + n: name for pid in self.pids.values() for n, name in enumerate(NAMES)}
        self.may_run = dict.fromkeys(self.threads, ALL)
        self.stubborn: set[int] = set()

    def machines(self) -> dict[str, int]:
        return self.pids

    def names(self, pid: int) -> dict[int, str]:
        return {thread: name for thread, name in self.threads.items() if thread // 10 == pid // 10}

    def allowed(self, thread: int) -> frozenset[int] | None:
        return self.may_run.get(thread)

    def confine(self, thread: int, cpus: frozenset[int]) -> None:
        if thread in self.stubborn:
            raise PermissionError(thread)
        self.may_run[thread] = cpus

    def of(self, pid: int) -> list[str]:
        """Where the threads of a process may run."""
        return ["".join(map(str, sorted(self.may_run[pid + n]))) for n in range(4)]


class Bench:
    def __init__(self, folder: Path) -> None:
        self.kernel = Kernel()
        (folder / ONLINE).parent.mkdir(parents=True)
        (folder / ONLINE).write_text("0-7\n")
        driver = SimulatedDriver(folder / "machine", name="h")
        self.desk = Desk(driver, Journal.open(folder / "journal"), Timings().scaled(0.01), "boot")
        self.setup = CpuSetup(self.kernel, folder, folder / "cpus")
        self.keeper = CpuKeeper(self.desk, self.setup)

    def runs(
        self,
        vm: str,
        own: Dedicated | None = None,
        pins: tuple[CpuPin, ...] = (),
        role: Role = Role.RUN,
    ) -> None:
        spec: RunSpec = a_spec(vm)
        configuration = msgspec.structs.replace(spec.configuration, tuning=Tuning(pins=pins))
        spec = msgspec.structs.replace(spec, dedicated=own, configuration=configuration)
        item = IntentVm(
            vm=vm,
            incarnation=1,
            role=role,
            position=1,
            spec=None if role is Role.ABSENT else spec,
        )
        self.desk.intent[RunKey(vm, 1)] = item
        self.desk.domains[RunKey(vm, 1)] = Domain(vm=vm, incarnation=1)

    def look(self) -> None:
        self.keeper.look(places_of(self.desk.intent.values()))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


OWN = Dedicated(pins=(CpuPin(vcpu=0, cpus="2"), CpuPin(vcpu=1, cpus="3")), cpus="2-3,6-7")


def test_nobody_else_runs_on_them(bench: Bench) -> None:
    bench.runs(VM, OWN)
    bench.runs(OTHER, pins=(CpuPin(vcpu=1, cpus="4-5"),))
    bench.look()
    # QEMU's own threads are no virtual CPUs, and go where the others are
    assert bench.kernel.of(10) == ["0145", "2", "3", "0145"]
    assert bench.kernel.of(20) == ["0145", "0145", "45", "0145"]
    # what is not ours is left alone
    assert bench.kernel.of(30) == ["01234567"] * 4


def test_all_run_anywhere_again_once_nobody_has_cpus_of_its_own(bench: Bench) -> None:
    bench.runs(VM, OWN)
    bench.runs(OTHER, pins=(CpuPin(vcpu=1, cpus="4-5"),))
    bench.look()
    bench.runs(VM, role=Role.ABSENT)
    # another process of the agent knows of it by its marker
    CpuKeeper(bench.desk, bench.setup).look(places_of(bench.desk.intent.values()))
    assert bench.kernel.of(20) == ["01234567", "01234567", "45", "01234567"]
    # and then no thread is touched any more
    bench.kernel.may_run[21] = frozenset({1})
    bench.look()
    assert bench.kernel.of(20)[1] == "1"


def test_threads_that_come_later_or_go_meanwhile_are_no_trouble(bench: Bench) -> None:
    bench.runs(VM, OWN)
    bench.kernel.stubborn.add(10)
    del bench.kernel.may_run[13]
    bench.look()
    bench.kernel.may_run[13] = ALL
    assert bench.kernel.of(10) == ["01234567", "2", "3", "01234567"]
    bench.kernel.stubborn.clear()
    bench.look()
    assert bench.kernel.of(10) == ["0145", "2", "3", "0145"]


def test_a_host_whose_every_cpu_is_given_away_still_runs_the_rest(bench: Bench) -> None:
    bench.runs(VM, Dedicated(pins=(), cpus="0-7"))
    bench.runs(OTHER)
    bench.look()
    assert bench.kernel.of(20) == ["01234567"] * 4


async def test_it_looks_where_something_changed_and_not_before_it_knows_anything(
    bench: Bench,
) -> None:
    bench.runs(VM, OWN)
    bench.runs(OTHER)
    task = asyncio.create_task(bench.keeper.run())
    try:
        await asyncio.sleep(0.6)
        assert bench.kernel.of(20) == ["01234567"] * 4  # no engine said yet what is to be here
        bench.desk.welcomed = 5
        async with asyncio.timeout(10):
            while bench.kernel.of(20) != ["0145"] * 4:
                await asyncio.sleep(0.05)
        bench.desk.intent.pop(RunKey(VM, 1))
        async with asyncio.timeout(10):
            while bench.kernel.of(20) != ["01234567"] * 4:
                await asyncio.sleep(0.05)
    finally:
        task.cancel()


def test_real_threads_are_confined(tmp_path: Path) -> None:
    """given a program that is named like a QEMU, with a thread that is named like a virtual CPU"""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU only")
    last = max(os.sched_getaffinity(0))
    program = tmp_path / "qemu-system-x86_64"
    program.symlink_to(sys.executable)
    code = (
        "import ctypes, threading, time\n"
        "def vcpu():\n"
        "    ctypes.CDLL(None).prctl(15, b'CPU 0/TCG', 0, 0, 0)\n"
        "    time.sleep(60)\n"
        "threading.Thread(target=vcpu, daemon=True).start()\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    words = ["-uuid", VM, "-smbios", "type=11,value=chronovisor.incarnation=1"]
    with subprocess.Popen([program, "-c", code, *words], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            threads = QemuThreads(ProcessTable())
            pid = threads.machines()[VM]
            assert pid == process.pid
            while "CPU 0/TCG" not in threads.names(pid).values():
                pass
            bench = Bench(tmp_path / "host")
            (bench.setup.root / ONLINE).write_text(f"0-{last}\n")
            bench.runs(VM, Dedicated(pins=(CpuPin(vcpu=0, cpus=f"{last}"),), cpus=f"{last}"))
            setup = CpuSetup(threads, bench.setup.root, bench.setup.marker)
            CpuKeeper(bench.desk, setup).look(places_of(bench.desk.intent.values()))
            for thread, name in threads.names(pid).items():
                wanted = [last] if name.startswith("CPU") else range(last)
                assert threads.allowed(thread) == frozenset(wanted)
        finally:
            process.kill()
    assert threads.names(pid) == {}
    assert threads.allowed(pid) is None
