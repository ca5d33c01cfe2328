import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from chronovisor.embedded_postgres import EmbeddedPostgres
from chronovisor.supervisor import Supervisor, folder_lock, read_status
from chronovisor.supervisor_parts import (
    AlreadyRunning,
    BrokenPlan,
    Launched,
    Part,
    PartFailed,
    PartState,
    PartStatus,
    start_order,
)
from chronovisor.supervisor_postgres import postgres_part
from chronovisor.supervisor_probes import (
    ready_when_healthy,
    ready_when_listening,
    ready_when_logged,
    ready_when_true,
)
from chronovisor.supervisor_process import describe_exit, rotate_log

pytestmark = pytest.mark.integration

READY = ready_when_logged("ready")


def shell(name: str, script: str, **others: object) -> Part:
    return Part(name=name, argv=("/bin/sh", "-c", script), **others)  # type: ignore[arg-type]


def steady(name: str, **others: object) -> Part:
    """A part that says that it is ready and then does nothing, until it is told to stop."""
    return shell(name, "echo ready; exec sleep 300", ready=READY, **others)


async def until(condition: Callable[[], bool], timeout_s: float = 5) -> float:
    """Wait for the condition; answers after how many seconds it came true."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, "waited in vain"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie, which its new parent has not met yet, does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


class Running:
    """A started supervisor under test, with all that it reported."""

    def __init__(self, folder: Path, *parts: Part, **others: object) -> None:
        self.seen: list[PartStatus] = []
        self.supervisor = Supervisor(
            folder,
            parts,
            on_change=self.seen.append,
            **others,  # type: ignore[arg-type]
        )

    def part(self, name: str) -> PartStatus:
        return next(one for one in self.supervisor.status().parts if one.name == name)

    def pid(self, name: str) -> int:
        pid = self.part(name).pid
        assert pid is not None
        return pid

    def states(self, name: str) -> list[PartState]:
        """The states that a part went through, each repeated one once."""
        states: list[PartState] = []
        for status in self.seen:
            if status.name == name and (not states or states[-1] is not status.state):
                states.append(status.state)
        return states


@contextlib.asynccontextmanager
async def running(folder: Path, *parts: Part, **others: object) -> AsyncIterator[Running]:
    run = Running(folder, *parts, **others)
    async with run.supervisor:
        assert await run.supervisor.start()
        yield run


async def test_parts_start_after_those_they_wait_for_and_stop_before(tmp_path: Path) -> None:
    order = tmp_path / "order"

    def noting(name: str, *after: str) -> Part:
        script = (
            f"trap 'sleep 0.2; echo -{name} >> {order}; exit 0' TERM; sleep 0.2; "
            f"echo +{name} >> {order}; echo ready; while :; do sleep 0.05; done"
        )
        return shell(name, script, after=after, ready=READY)

    async with running(
        tmp_path,
        noting("api", "store", "bus"),
        noting("bus"),
        noting("store"),
        noting("last", "api"),
    ) as run:
        states = {one.name: one.state for one in run.supervisor.status().parts}
        assert set(states.values()) == {PartState.READY}

    told = order.read_text().split()
    assert set(told[:2]) == {"+bus", "+store"}
    assert told[2:6] == ["+api", "+last", "-last", "-api"]
    assert set(told[6:]) == {"-bus", "-store"}
    assert run.states("api") == [
        PartState.STARTING,
        PartState.READY,
        PartState.STOPPING,
        PartState.STOPPED,
    ]


async def test_a_killed_part_is_back_within_a_second(tmp_path: Path) -> None:
    async with running(tmp_path, steady("engine"), steady("other")) as run:
        first, bystander = run.pid("engine"), run.pid("other")
        for count in (1, 2, 3):
            os.kill(run.pid("engine"), signal.SIGKILL)

            await until(lambda count=count: run.part("engine").restarts == count)  # type: ignore[misc]
            took_s = await until(lambda: run.part("engine").state is PartState.READY)

            assert took_s < 1
        assert run.pid("engine") != first
        assert "SIGKILL" in str(run.part("engine").last_error)
        assert run.pid("other") == bystander


async def test_restarts_slow_down_and_are_bounded(tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    part = shell(
        "flapping",
        f"date +%s.%N >> {beats}; echo ready; [ -e {tmp_path}/broken ] && exit 3; exec sleep 300",
        ready=ready_when_true(lambda: True),
    )
    async with running(tmp_path, part, restart_delay_max_s=0.5) as run:
        (tmp_path / "broken").touch()
        os.kill(run.pid("flapping"), signal.SIGKILL)
        await until(lambda: run.part("flapping").restarts >= 7, 15)
        times = [float(line) for line in beats.read_text().split()]
        gaps = [after - before for before, after in itertools.pairwise(times[1:])]
        (tmp_path / "broken").unlink()
        await until(lambda: run.part("flapping").state is PartState.READY)
        last_error = run.part("flapping").last_error

    assert "exit code 3; it said: ready" in str(last_error)
    assert min(gaps[-2:]) >= 0.25
    assert max(gaps) < 2


async def test_a_paused_part_is_left_alone(tmp_path: Path) -> None:
    async with running(tmp_path, steady("engine")) as run:
        pid = run.pid("engine")
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1)

        assert run.part("engine").state is PartState.READY
        assert run.pid("engine") == pid
        assert run.part("engine").restarts == 0
    # and can still be stopped in an orderly way
    assert not alive(pid)
    assert run.states("engine")[-1] is PartState.STOPPED


async def test_a_part_that_will_not_end_is_killed_after_its_time(tmp_path: Path) -> None:
    part = shell(
        "deaf",
        "trap '' TERM; echo ready; while :; do sleep 0.1; done",
        ready=READY,
        stop_timeout_s=0.5,
    )
    async with running(tmp_path, part) as run:
        pid = run.pid("deaf")
        began = time.monotonic()

    assert 0.4 < time.monotonic() - began < 30
    assert not alive(pid)


async def test_a_second_request_to_stop_does_not_wait(tmp_path: Path) -> None:
    part = shell(
        "deaf",
        "trap '' TERM; echo ready; while :; do sleep 0.1; done",
        ready=READY,
        stop_timeout_s=60,
    )
    async with running(tmp_path, part) as run:
        began = time.monotonic()
        run.supervisor.request_stop()
        run.supervisor.request_stop()
        await asyncio.wait_for(run.supervisor.wait_for_stop(), 10)

    assert time.monotonic() - began < 30


async def test_a_part_that_never_comes_up_fails_the_start_and_stops_the_others(
    tmp_path: Path,
) -> None:
    broken = shell("broken", "echo the port is taken >&2; exit 1", after=("good",), ready=READY)
    run = Running(tmp_path, steady("good"), broken)

    with pytest.raises(PartFailed, match=r"broken did not start: exit code 1.*the port is taken"):
        async with run.supervisor:
            await run.supervisor.start()

    assert run.part("broken").state is PartState.FAILED
    assert run.part("broken").restarts == 2
    assert run.part("good").state is PartState.STOPPED


async def test_a_broken_setting_fails_at_once_and_later_leaves_the_others(tmp_path: Path) -> None:
    part = shell("part", "echo bad setting; exit 78", ready=READY)
    run = Running(tmp_path, part)
    with pytest.raises(PartFailed, match="exit code 78; it said: bad setting"):
        async with run.supervisor:
            await run.supervisor.start()
    assert run.part("part").restarts == 0

    flag = tmp_path / "flag"
    later = shell("part", f"[ -e {flag} ] && exit 78; echo ready; exec sleep 300", ready=READY)
    async with running(tmp_path, later, steady("other")) as run:
        waiting = asyncio.create_task(run.supervisor.wait_for_stop())
        flag.touch()
        os.kill(run.pid("part"), signal.SIGKILL)
        await until(lambda: run.part("part").state is PartState.FAILED)
        await asyncio.sleep(0.3)

        assert run.part("other").state is PartState.READY
        assert not waiting.done()
        run.supervisor.request_stop()
        await asyncio.wait_for(waiting, 2)


async def test_a_part_that_is_not_ready_in_time_fails_the_start(tmp_path: Path) -> None:
    part = shell("slow", "echo warming up; exec sleep 300", ready=READY, ready_timeout_s=0.3)
    run = Running(tmp_path, part)

    with pytest.raises(PartFailed, match=r"not ready within 0\.3 s; it said: warming up"):
        async with run.supervisor:
            await run.supervisor.start()

    pids = [status.pid for status in run.seen if status.pid]
    assert pids
    assert not any(alive(pid) for pid in pids)


async def test_what_is_done_before_a_start_counts_as_a_part_of_it(tmp_path: Path) -> None:
    def refuse() -> None:
        raise OSError("the disk is full")

    run = Running(tmp_path, steady("part", before_start=refuse))
    with pytest.raises(PartFailed, match="the disk is full"):
        async with run.supervisor:
            await run.supervisor.start()

    missing = Running(tmp_path, Part(name="missing", argv=("/no/such/program",), ready=READY))
    with pytest.raises(PartFailed, match="No such file"):
        async with missing.supervisor:
            await missing.supervisor.start()


async def test_a_stop_during_the_start_is_orderly(tmp_path: Path) -> None:
    run = Running(
        tmp_path, steady("first"), shell("slow", "exec sleep 300", ready=READY, after=("first",))
    )
    async with run.supervisor:
        asyncio.get_running_loop().call_later(0.5, run.supervisor.request_stop)
        assert await run.supervisor.start() is False

    assert {one.state for one in run.supervisor.status().parts} == {PartState.STOPPED}


async def test_a_second_supervisor_is_refused_by_name(tmp_path: Path) -> None:
    async with running(tmp_path, steady("part")):
        second = Running(tmp_path, steady("part"))
        with pytest.raises(AlreadyRunning, match=f"already runs in .*process {os.getpid()}"):
            async with second.supervisor:
                pass

    with folder_lock(tmp_path):
        pass


async def test_the_status_is_published(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    async with running(tmp_path, steady("part")) as run:
        published = read_status(tmp_path)

        assert published == run.supervisor.status()
        assert published is not None
        assert published.pid == os.getpid()
        assert published.parts[0].pid == run.pid("part")


async def test_a_part_runs_with_its_environment_and_user_and_a_private_log(tmp_path: Path) -> None:
    script = 'echo "A=$A HOME=${HOME-none} uid=$(id -u)"; pwd; echo ready; exec sleep 300'
    part = shell(
        "part",
        script,
        ready=READY,
        environment={"A": "1", "PATH": "/usr/bin:/bin"},
        inherit_environment=False,
        working_folder=Path("/usr"),
        uid=65534 if os.geteuid() == 0 else None,
        gid=65534 if os.geteuid() == 0 else None,
    )
    async with running(tmp_path, part):
        log = tmp_path / "log" / "part.log"
        lines = log.read_text().splitlines()

        assert lines[0].startswith("A=1 HOME=none uid=")
        assert os.geteuid() != 0 or lines[0].endswith("uid=65534")
        assert lines[1] == "/usr"
        assert log.stat().st_mode & 0o077 == 0


def test_a_log_is_rotated_by_size_while_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    script = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.002; done"
    with log.open("ab") as target:
        writer = subprocess.Popen(["/bin/sh", "-c", script], stdout=target)
    rotations = 0
    while writer.poll() is None:
        rotations += rotate_log(log, bytes_max=500, kept=3)
        time.sleep(0.005)

    names = sorted(path.name for path in tmp_path.iterdir())
    assert rotations >= 4
    assert names == ["part.log", "part.log.1", "part.log.2", "part.log.3"]
    assert "line 399" in log.read_text() + (tmp_path / "part.log.1").read_text()
    assert log.read_bytes()[:1] != b"\0"
    assert not rotate_log(tmp_path / "none.log")


async def test_the_probes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old line: ready\n")
    launched = Launched(pid=1, log=log, log_offset=log.stat().st_size)
    assert not await READY(launched)
    log.write_text("old line: ready\nnow I am ready\n")
    assert await READY(launched)

    path = tmp_path / "socket"
    listening = ready_when_listening(path)
    assert not await listening(launched)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert await listening(launched)
    assert not await listening(launched)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status = b"200 OK" if b"/good" in head else b"503 No"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await ready_when_healthy(f"http://127.0.0.1:{port}/good")(launched)
    assert not await ready_when_healthy(f"http://127.0.0.1:{port}/bad")(launched)
    server.close()
    await server.wait_closed()
    assert not await ready_when_healthy(f"http://127.0.0.1:{port}/good")(launched)


def test_a_plan_that_cannot_be_started_is_refused() -> None:
    a, b = shell("a", "", after=("b",)), shell("b", "", after=("a",))

    with pytest.raises(BrokenPlan, match="wait for each other: a, b"):
        start_order((a, b))
    with pytest.raises(BrokenPlan, match="a waits for b, which is no part"):
        start_order((a,))
    with pytest.raises(BrokenPlan, match="one name"):
        start_order((shell("a", ""), shell("a", "")))


def test_exits_are_described_in_words() -> None:
    assert describe_exit(0) == "exit code 0"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-63) == "killed by signal 63"


SUPERVISOR_PROGRAM = """
import asyncio, sys
from pathlib import Path
from chronovisor.embedded_postgres import EmbeddedPostgres
from chronovisor.supervisor import Supervisor
from chronovisor.supervisor_parts import Part
from chronovisor.supervisor_postgres import postgres_part
from chronovisor.supervisor_probes import ready_when_logged

async def main(folder):
    ready = ready_when_logged("ready")
    parts = tuple(
        Part(name=name, argv=("/bin/sh", "-c", "echo ready; exec sleep 300"), ready=ready)
        for name in ("one", "two")
    )
    if len(sys.argv) > 2:
        parts = (postgres_part(EmbeddedPostgres(folder / "postgresql")), *parts)
    async with Supervisor(folder, parts) as supervisor:
        await supervisor.start()
        print("UP", *(part.pid for part in supervisor.status().parts), flush=True)
        await supervisor.wait_for_stop()
    print("DOWN", flush=True)

asyncio.run(main(Path(sys.argv[1])))
"""


Process = subprocess.Popen[str]


@contextlib.contextmanager
def supervisor_program(folder: Path, *arguments: str) -> Iterator[tuple[Process, list[int]]]:
    """A supervisor in a process of its own, once all is up, and the pids of its parts."""
    program = folder / "program.py"
    program.write_text(SUPERVISOR_PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), str(folder / "var"), *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("UP"):
                break
        else:
            pytest.fail("the supervisor did not come up")
        yield process, [int(word) for word in line.split()[1:]]
    finally:
        process.kill()
        process.wait(5)
        process.stdout.close()


@pytest.fixture
def supervisor_process(tmp_path: Path) -> Iterator[tuple[Process, list[int]]]:
    with supervisor_program(tmp_path) as started:
        yield started


async def test_a_new_supervisor_takes_over_the_database_of_a_killed_one(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "var" / "postgresql")
    with supervisor_program(tmp_path, "with postgres") as (process, pids):
        connection = psycopg.connect(postgres.dsn)
        connection.execute("create table kept as select 42 as answer")
        connection.commit()
        # Given a client in the middle of a transaction, and a paused database
        connection.execute("insert into kept values (43)")
        os.kill(pids[0], signal.SIGSTOP)
        process.kill()

    with supervisor_program(tmp_path, "with postgres") as (process, new_pids):
        assert not any(alive(pid) for pid in pids)
        assert all(alive(pid) for pid in new_pids)
        with psycopg.connect(postgres.dsn) as another:
            assert another.execute("select answer from kept").fetchall() == [(42,)]
        process.terminate()
        assert process.wait(10) == 0
    with contextlib.suppress(psycopg.Error):
        connection.close()


async def test_all_parts_die_with_a_supervisor_that_is_killed(
    supervisor_process: tuple[Process, list[int]], tmp_path: Path
) -> None:
    process, pids = supervisor_process
    assert all(alive(pid) for pid in pids)

    process.kill()

    assert await until(lambda: not any(alive(pid) for pid in pids)) < 2
    # and its lock went with it
    with folder_lock(tmp_path / "var"):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_and_sigterm_stop_everything_cleanly(
    supervisor_process: tuple[Process, list[int]], number: signal.Signals
) -> None:
    process, pids = supervisor_process

    # As the terminal does it: to the whole foreground group at once.
    os.killpg(process.pid, number)

    assert process.wait(5) == 0
    assert process.stdout is not None
    assert "DOWN" in process.stdout.read()
    assert not any(alive(pid) for pid in pids)


async def test_a_second_supervisor_leaves_the_database_of_the_first_alone(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "postgresql")
    async with running(tmp_path, postgres_part(postgres)) as run:
        second = Running(tmp_path, postgres_part(EmbeddedPostgres(tmp_path / "postgresql")))
        with pytest.raises(AlreadyRunning):
            async with second.supervisor:
                await second.supervisor.start()

        assert postgres.ready()
        assert run.part("postgres").restarts == 0


async def test_what_the_database_refuses_is_what_the_start_reports(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "postgresql", free_bytes_min=2**60)
    run = Running(tmp_path, postgres_part(postgres))

    with pytest.raises(PartFailed, match=r"postgres did not start: .* MiB are needed to start"):
        async with run.supervisor:
            await run.supervisor.start()


async def test_the_embedded_postgresql_survives_its_kill_under_the_supervisor(
    tmp_path: Path,
) -> None:
    postgres = EmbeddedPostgres(tmp_path / "postgresql")
    user = shell("user", "echo ready; exec sleep 300", ready=READY, after=("postgres",))

    async with running(tmp_path, postgres_part(postgres), user) as run:
        with psycopg.connect(postgres.dsn) as connection:
            connection.execute("create table kept as select 42 as answer")
        dependent = run.pid("user")

        os.kill(run.pid("postgres"), signal.SIGKILL)
        await until(lambda: run.part("postgres").restarts == 1)
        await until(lambda: run.part("postgres").state is PartState.READY, 20)

        with psycopg.connect(postgres.dsn) as connection:
            assert connection.execute("select answer from kept").fetchone() == (42,)
        assert run.pid("user") == dependent
        last = run.pid("postgres")

    assert not alive(last)
    log = (tmp_path / "log" / "postgres.log").read_text()
    assert "database system is shut down" in log
    assert not (postgres.data / "postmaster.pid").exists()
