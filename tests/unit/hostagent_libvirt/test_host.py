"""What the driver makes of a libvirt that fails, contradicts itself or is away."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from events.types.migration import Held
from events.types.vm import DownReason, PauseReason
from hostagent.convergence import GO_ON, Terms
from hostagent.driver import DriverError, DriverEvent, Happening, UnknownStateError
from hostagent.libvirt_events import Lifecycle, Paused, Running, Stopped
from hostagent.libvirt_host import HostDriver, Options
from hostagent.libvirt_inventory import disagreement
from hostagent.libvirt_port import Listed
from hostagent.libvirt_processes import Qemu
from hostagent.libvirt_storage import partial_of
from hostagent.libvirt_watch import EVENTS_MAX
from hostagent.libvirt_xml import Ownership
from tests.unit.hostagent_libvirt.fakes import LOST, FakeLibvirt, FakeProcesses, raising, waiting
from tests.unit.hostagent_libvirt.specs import VM, a_spec

OTHER = "0199c0de-0000-7000-8000-00000000002b"
OPTIONS = Options(
    virtualization="qemu",
    call_timeout_s=0.5,
    start_timeout_s=1.0,
    destroy_timeout_s=0.5,
    settle_timeout_s=0.4,
    late_start_s=0.0,
    retry_min_s=0.01,
    retry_max_s=0.05,
)
SPEC = a_spec(incarnation=1, disks=())


class Rig:
    def __init__(self, folder: Path) -> None:
        self.processes = FakeProcesses()
        self.libvirt = FakeLibvirt(self.processes)
        self.driver = HostDriver(self.libvirt, folder, OPTIONS, processes=self.processes)
        self._events = self.driver.events()

    async def told(self) -> DriverEvent:
        return await asyncio.wait_for(anext(self._events), 8)

    async def nothing_told(self) -> None:
        await asyncio.sleep(0.1)
        assert self.driver._watch._told.empty()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.driver.open()
    assert (await rig.told()).happening is Happening.RECONNECTED
    yield rig
    rig.libvirt.before = lambda _: None
    await rig.driver.close()


class TestStart:
    async def test_a_start_that_certainly_failed(self, rig: Rig) -> None:
        rig.libvirt.before = raising("create", DriverError("no memory"))
        with pytest.raises(DriverError, match="no memory") as refused:
            await rig.driver.start(SPEC)
        assert not isinstance(refused.value, UnknownStateError)
        await rig.nothing_told()

    async def test_a_failure_that_leaves_a_process_is_no_certain_one(self, rig: Rig) -> None:
        def before(name: str) -> None:
            if name == "create":
                rig.processes.table.append(Qemu(pid=9, uuid=VM, booted_incarnation=1))
                raise DriverError("timed out")

        rig.libvirt.before = before
        with pytest.raises(UnknownStateError):
            await rig.driver.start(SPEC)

    async def test_a_connection_lost_in_a_start_leaves_it_open(self, rig: Rig) -> None:
        rig.libvirt.before = raising("create", LOST)
        with pytest.raises(UnknownStateError):
            await rig.driver.start(SPEC)
        assert (await rig.told()).happening is Happening.LOST
        rig.libvirt.before = lambda _: None
        assert (await rig.told()).happening is Happening.RECONNECTED
        assert rig.libvirt.connections == 2

    async def test_a_start_without_an_answer_is_not_known(self, rig: Rig) -> None:
        going_on = threading.Event()
        rig.libvirt.before = waiting("create", going_on)
        with pytest.raises(UnknownStateError, match="no answer"):
            await rig.driver.start(SPEC)
        going_on.set()
        assert (await rig.told()).happening is Happening.STARTED
        assert [each.vm for each in (await rig.driver.domains()).managed] == [VM]

    async def test_its_own_run_is_no_failed_start_and_another_is(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 1)
        with pytest.raises(UnknownStateError, match="already"):
            await rig.driver.start(SPEC)
        with pytest.raises(DriverError, match="already") as refused:
            await rig.driver.start(a_spec(incarnation=2, disks=()))
        assert not isinstance(refused.value, UnknownStateError)
        assert "create" not in rig.libvirt.calls

    async def test_a_run_that_ends_at_once_is_told_of_in_order(self, rig: Rig) -> None:
        def before(name: str) -> None:
            if name == "create":
                rig.libvirt._begin = begin  # type: ignore[method-assign]

        def begin(xml: str) -> None:
            FakeLibvirt._begin(rig.libvirt, xml)
            rig.libvirt.end(VM)
            time.sleep(0.1)

        rig.libvirt.before = before
        await rig.driver.start(SPEC)
        happenings = [(await rig.told()).happening for _ in range(2)]
        assert happenings == [Happening.STARTED, Happening.ENDED]

    async def test_two_starts_of_one_run_make_one_domain(self, rig: Rig) -> None:
        outcomes = await asyncio.gather(
            rig.driver.start(SPEC), rig.driver.start(SPEC), return_exceptions=True
        )
        assert [type(each) for each in outcomes] == [type(None), UnknownStateError]
        assert rig.libvirt.calls.count("create") == 1

    async def test_a_start_that_was_destroyed_before_it_began(self, rig: Rig) -> None:
        start = asyncio.create_task(rig.driver.start(SPEC))
        await asyncio.sleep(0)
        await rig.driver.destroy(VM, 1)
        with pytest.raises(DriverError, match="taken back"):
            await start
        assert rig.libvirt.domains == {}

    async def test_an_unusable_spec_never_reaches_libvirt(self, rig: Rig) -> None:
        with pytest.raises(DriverError, match="exact"):
            await rig.driver.start(a_spec(machine_type="q35", disks=()))
        assert "create" not in rig.libvirt.calls


class TestDomains:
    async def test_managed_paused_held_and_strangers(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 1, Paused.MIGRATION)
        rig.libvirt.put(OTHER, None)
        found = await rig.driver.domains()
        (domain,) = found.managed
        assert (domain.held, domain.paused, domain.process) == (Held.SWITCH_OVER, True, 100)
        assert found.unmanaged == (f"name of {OTHER}",)
        with pytest.raises(DriverError, match="migration"):
            await rig.driver.resume(VM, 1)
        assert "resume" not in rig.libvirt.calls

    async def test_half_of_a_broken_post_copy_is_held_though_libvirt_says_running(
        self, rig: Rig
    ) -> None:
        rig.libvirt.put(VM, 1, running=Running.POSTCOPY)
        (domain,) = (await rig.driver.domains()).managed
        assert (domain.held, domain.paused, domain.fetching) == (None, False, True)
        with pytest.raises(DriverError, match="on its way"):
            await rig.driver.resume(VM, 1)
        rig.processes.table.clear()
        rig.libvirt.put(VM, 1, running=Running.POSTCOPY_FAILED)
        (domain,) = (await rig.driver.domains()).managed
        assert (domain.held, domain.paused, domain.fetching) == (Held.POST_COPY, True, False)
        with pytest.raises(DriverError, match="never resumed"):
            await rig.driver.resume(VM, 1)

    async def test_only_broken_post_copy_goes_on(self, rig: Rig) -> None:
        sender, terms = rig.driver.sender, Terms(down_time_ms=100, may_post_copy=True)
        rig.libvirt.put(VM, 1, Paused.MIGRATION)
        assert not await sender.in_post_copy(VM, 1)
        with pytest.raises(DriverError, match="not held in post-copy"):
            await sender.recover(VM, 1, Path("/nowhere"), terms, lambda _seen: GO_ON)
        rig.processes.table.clear()
        rig.libvirt.put(VM, 1, Paused.POSTCOPY_FAILED)
        assert await sender.in_post_copy(VM, 1)
        await sender.recover(VM, 1, Path("/nowhere"), terms, lambda _seen: GO_ON)
        assert "recover" in rig.libvirt.calls

    async def test_a_pause_for_want_of_space_is_found_by_a_new_agent(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 1, Paused.IOERROR)
        (domain,) = (await rig.driver.domains()).managed
        assert domain.pause_reason is PauseReason.NO_SPACE

    async def test_a_moments_disagreement_is_waited_out(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 1)
        del rig.libvirt.domains[VM]
        waiting = asyncio.create_task(rig.driver.domains())
        await asyncio.sleep(0.1)
        rig.processes.table.clear()
        assert (await waiting).managed == ()

    @pytest.mark.parametrize("missing", ["domain", "process"])
    async def test_a_lasting_one_means_not_known(self, rig: Rig, missing: str) -> None:
        rig.libvirt.put(VM, 1)
        if missing == "domain":
            rig.libvirt.domains.clear()
        else:
            rig.processes.table.clear()
        with pytest.raises(UnknownStateError):
            await rig.driver.domains()

    async def test_a_start_by_an_agent_that_died_is_not_absent(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 1, Paused.STARTING_UP)
        with pytest.raises(UnknownStateError, match="coming or going"):
            await rig.driver.domains()

    def test_where_they_agree(self) -> None:
        listed = Listed(uuid=VM, name="n", own=Ownership(vm=VM, incarnation=1))
        qemu = Qemu(pid=1, uuid=VM, booted_incarnation=1)
        nobody: frozenset[str] = frozenset()
        mine = frozenset({VM})
        assert disagreement([listed], [qemu], nobody, nobody) is None
        assert disagreement([], [], nobody, nobody) is None
        assert disagreement([], [qemu], nobody, nobody)
        assert disagreement([], [qemu], mine, nobody) is None
        assert disagreement([listed], [], nobody, nobody)
        assert disagreement([listed], [], nobody, mine) is None
        stranger = Qemu(pid=1, uuid=OTHER)
        assert disagreement([], [stranger], nobody, nobody) is None


class TestDestroy:
    async def test_only_the_named_run_ends(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 3)
        await rig.driver.destroy(VM, 2)
        assert VM in rig.libvirt.domains
        await rig.driver.destroy(VM, 3)
        assert rig.libvirt.domains == {}
        await rig.driver.destroy(VM, 3)

    async def test_it_is_not_over_before_the_process_is_gone(self, rig: Rig) -> None:
        rig.processes.table.append(Qemu(pid=7, uuid=VM, booted_incarnation=2))
        with pytest.raises(UnknownStateError):
            await rig.driver.destroy(VM, 3)
        assert rig.processes.killed == []

    async def test_a_process_that_libvirt_lost_is_killed_if_it_is_surely_this_run(
        self, rig: Rig
    ) -> None:
        rig.processes.table.append(Qemu(pid=7, uuid=VM, booted_incarnation=3))
        await rig.driver.destroy(VM, 3)
        assert [qemu.pid for qemu in rig.processes.killed] == [7]

    async def test_what_was_asked_before_a_loss_may_still_come(
        self, rig: Rig, tmp_path: Path
    ) -> None:
        options = msgspec.structs.replace(OPTIONS, late_start_s=0.3, destroy_timeout_s=2.0)
        driver = HostDriver(rig.libvirt, tmp_path, options, processes=rig.processes)
        await driver.open()
        # given an agent that died in a start which libvirtd takes up only now
        destroy = asyncio.create_task(driver.destroy(VM, 1))
        await asyncio.sleep(0.15)
        assert not destroy.done()
        rig.libvirt.put(VM, 1)
        await destroy
        assert rig.libvirt.domains == {}
        await driver.close()

    async def test_a_start_that_hangs_is_not_said_to_be_gone(self, rig: Rig) -> None:
        going_on = threading.Event()
        rig.libvirt.before = waiting("create", going_on)
        with pytest.raises(UnknownStateError):
            await rig.driver.start(SPEC)
        with pytest.raises(UnknownStateError, match="for certain"):
            await rig.driver.destroy(VM, 1)
        ending = asyncio.create_task(rig.driver.destroy(VM, 1))
        going_on.set()
        await ending
        assert rig.libvirt.domains == {}


class TestEvents:
    async def test_an_end_is_told_when_the_process_is_gone(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 1)
        rig.driver._watch.interpreter.know(VM, 1)
        rig.libvirt.end(VM, Stopped.CRASHED, keep_process=True)
        await rig.nothing_told()
        rig.processes.table.clear()
        told = await rig.told()
        assert (told.happening, told.reason) == (Happening.ENDED, DownReason.CRASHED)

    async def test_an_end_without_end_of_the_process_says_compare(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hostagent.libvirt_watch.GONE_TIMEOUT_S", 0.1)
        rig.libvirt.put(VM, 1)
        rig.driver._watch.interpreter.know(VM, 1)
        rig.libvirt.end(VM, keep_process=True)
        assert (await rig.told()).happening is Happening.RECONNECTED

    async def test_runs_that_were_there_before_are_known(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 6)
        rig.libvirt.break_off()
        assert [(await rig.told()).happening for _ in range(2)] == [
            Happening.LOST,
            Happening.RECONNECTED,
        ]
        rig.libvirt.end(VM, Stopped.FAILED)
        told = await rig.told()
        assert (told.happening, told.vm, told.incarnation) == (Happening.ENDED, VM, 6)

    async def test_a_flood_becomes_one_comparison(self, rig: Rig) -> None:
        watch = rig.driver._watch
        for _ in range(EVENTS_MAX + 1):
            watch.tell(DriverEvent(happening=Happening.RESET, vm=VM, incarnation=1))
        assert (await rig.told()).happening is Happening.RECONNECTED
        await rig.nothing_told()


class TestConnection:
    async def test_a_libvirt_that_is_away_is_told_of_once(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path)
        rig.libvirt.before = raising("connect", DriverError("no socket"))
        await rig.driver.open()
        assert (await rig.told()).happening is Happening.LOST
        await rig.nothing_told()
        with pytest.raises(UnknownStateError):
            await rig.driver.domains()
        assert 2 <= rig.libvirt.calls.count("connect") <= 20
        rig.libvirt.before = lambda _: None
        assert (await rig.told()).happening is Happening.RECONNECTED
        assert (await rig.driver.domains()).managed == ()
        await rig.driver.close()

    async def test_a_connection_that_cannot_list_is_none(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path)
        rig.libvirt.before = raising("active", DriverError("broken"))
        await rig.driver.open()
        assert (await rig.told()).happening is Happening.LOST
        await rig.driver.close()
        assert rig.libvirt.calls.count("disconnect") == rig.libvirt.connections

    async def test_a_hanging_libvirt_neither_holds_calls_nor_the_end(self, rig: Rig) -> None:
        going_on = threading.Event()
        rig.libvirt.before = waiting("active", going_on)
        before = time.monotonic()
        outcomes = await asyncio.gather(
            *(rig.driver.domains() for _ in range(20)), return_exceptions=True
        )
        assert {type(each) for each in outcomes} == {UnknownStateError}
        await rig.driver.close()
        assert time.monotonic() - before < 30
        going_on.set()

    async def test_close_leaves_domains_alone(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 1)
        await rig.driver.close()
        assert VM in rig.libvirt.domains
        assert "destroy" not in rig.libvirt.calls


class TestSave:
    async def test_the_end_is_told_after_the_memory_has_its_name(
        self, rig: Rig, tmp_path: Path
    ) -> None:
        rig.libvirt.put(VM, 1)
        rig.driver._watch.interpreter.know(VM, 1)
        seen: list[int] = []

        def before(name: str) -> None:
            if name == "define_saved_xml":
                seen.append(rig.driver._watch._told.qsize())
                assert VM not in rig.libvirt.domains

        rig.libvirt.before = before
        save = asyncio.create_task(rig.driver.save(VM, 1, "memory/a"))
        await save
        told = await rig.told()
        assert (told.happening, told.reason) == (Happening.ENDED, DownReason.SUSPENDED)
        assert seen == [0]
        assert (tmp_path / "memory/a").exists()
        await rig.nothing_told()

    async def test_until_then_the_run_is_not_over(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 1)
        going_on = threading.Event()
        rig.libvirt.before = waiting("define_saved_xml", going_on)
        save = asyncio.create_task(rig.driver.save(VM, 1, "memory/a"))
        while "define_saved_xml" not in rig.libvirt.calls:
            await asyncio.sleep(0.01)
        (domain,) = (await rig.driver.domains()).managed
        assert (domain.vm, domain.incarnation, domain.paused) == (VM, 1, False)
        assert await rig.driver.volume_size("memory/a") is None
        going_on.set()
        await save
        assert (await rig.driver.domains()).managed == ()

    async def test_memory_that_cannot_be_kept_is_a_crash(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 1)
        rig.libvirt.before = raising("define_saved_xml", DriverError("read-only file system"))
        with pytest.raises(DriverError, match="cannot be kept"):
            await rig.driver.save(VM, 1, "memory/a")
        told = await rig.told()
        assert (told.happening, told.reason) == (Happening.ENDED, DownReason.CRASHED)

    async def test_a_failed_save_lets_the_run_go_on(self, rig: Rig) -> None:
        rig.libvirt.put(VM, 1)
        rig.libvirt.before = raising("save", DriverError("no space"))
        with pytest.raises(DriverError, match="no space"):
            await rig.driver.save(VM, 1, "memory/a")
        rig.libvirt.before = lambda _: None
        assert [each.vm for each in (await rig.driver.domains()).managed] == [VM]
        await rig.nothing_told()

    async def test_a_name_that_is_taken_is_kept(self, rig: Rig, tmp_path: Path) -> None:
        rig.libvirt.put(VM, 1)
        (tmp_path / "a").write_bytes(b"precious")
        with pytest.raises(DriverError, match="exists already"):
            await rig.driver.save(VM, 1, "a")
        assert (tmp_path / "a").read_bytes() == b"precious"
        assert VM in rig.libvirt.domains

    async def test_whole_memory_without_a_name_gets_it_once_the_run_is_over(
        self, rig: Rig, tmp_path: Path
    ) -> None:
        rig.libvirt.put(VM, 1)
        partial = partial_of(tmp_path / "a")
        rig.libvirt.save(None, VM, str(partial))
        rig.libvirt.put(VM, 1)
        assert await rig.driver.volume_size("a") is None
        rig.libvirt.end(VM)
        assert await rig.driver.volume_size("a") == 116
        assert not partial.exists()

    async def test_a_second_call_finishes_the_first(self, rig: Rig, tmp_path: Path) -> None:
        rig.libvirt.put(VM, 1)
        rig.libvirt.save(None, VM, str(partial_of(tmp_path / "a")))
        with pytest.raises(DriverError):
            await rig.driver.save(VM, 2, "a")
        await rig.driver.save(VM, 1, "a")
        assert await rig.driver.volume_size("a") == 116


async def test_samples_are_of_known_runs(rig: Rig) -> None:
    rig.libvirt.put(OTHER, None)
    await rig.driver.start(SPEC)
    rig.libvirt.say(VM, Lifecycle.RESUMED)
    host, vms = await rig.driver.sample()
    assert [(each.vm, each.incarnation) for each in vms] == [(VM, 1)]
    assert host.vms_running == 1


async def test_what_the_host_can_do(rig: Rig) -> None:
    able = await rig.driver.capabilities()
    assert able.machine_types == ("pc-q35-7.2",)
    assert able.hypervisor_version == "QEMU 7.2.0, libvirt 9.0.0"
    assert able.hostname == "host01"
    assert able.memory_bytes > 0
    assert able.swap is not None
