"""The agent as a process: killed, paused, stopped; VMs never notice."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from events.types.vm import DownReason
from events.wire.agent import VmState
from hostagent.fleet import MACHINE_FOLDER
from hostagent.join import join
from hostagent.simulated import MACHINE_NAME
from hostagent.simulated_state import Machine
from tests.harness.agent_server import AgentServer
from tests.unit.hostagent.fake_engine import FakeEngine
from tests.unit.hostagent.samples import OTHER, VM, run_item

pytestmark = pytest.mark.integration

PROGRAM = """
import asyncio, sys
from pathlib import Path
from hostagent.fleet import simulated_host
from hostagent.process import AgentProcess, run_agent
folder, status = Path(sys.argv[1]), sys.argv[2]
setup = simulated_host(folder, name="hw1", hardware="hw1")
asyncio.run(run_agent(AgentProcess(hosts=[setup], time_scale=0.05, status=status)))
"""


class Agent:
    def __init__(self, folder: Path, status: Path) -> None:
        self.folder = folder
        self.status = status
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(self.folder), str(self.status)
        )

    async def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(15):
            return await self.process.wait()

    def machine(self) -> Machine:
        data = (self.folder / MACHINE_FOLDER / MACHINE_NAME).read_bytes()
        return msgspec.json.decode(data, type=Machine)

    async def get(self, path: str) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(uds=str(self.status))
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as http:
            return await http.get(path)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[AgentServer]:
    server = AgentServer(tmp_path / "server")
    async with server.serving():
        await join(server.url, server.token(), tmp_path / "host", hardware="hw1")
    async with server.serving(mutual=True):
        yield server


@pytest.fixture
async def agent(tmp_path: Path, server: AgentServer) -> AsyncIterator[Agent]:
    agent = Agent(tmp_path / "host", tmp_path / "status")
    await agent.start()
    yield agent
    await agent.end()


@pytest.fixture
def engine(server: AgentServer) -> FakeEngine:
    return server.engine("hw1")


async def running(engine: FakeEngine) -> None:
    engine.order(run_item())
    await engine.until(
        lambda e: (VM, 1) in e.states and e.states[VM, 1].state is VmState.RUNNING, 20
    )


async def test_a_killed_agent_is_replaced_and_vms_run_on(agent: Agent, engine: FakeEngine) -> None:
    await running(engine)
    before = agent.machine().domains

    await agent.end(signal.SIGKILL)
    engine.order(run_item(OTHER))
    assert agent.machine().domains == before
    await agent.start()
    await engine.until(lambda e: (OTHER, 1) in e.states, 20)
    await engine.until_state(OTHER, VmState.RUNNING)

    after = agent.machine().domains
    assert after[VM] == before[VM]
    assert engine.states[VM, 1].state is VmState.RUNNING


async def test_a_stop_in_good_order_leaves_vms_alone(agent: Agent, engine: FakeEngine) -> None:
    await running(engine)
    before = agent.machine().domains

    code = await agent.end(signal.SIGTERM)

    assert code == 0
    assert agent.machine().domains == before


async def test_a_paused_agent_starts_nothing_that_was_withdrawn_meanwhile(
    agent: Agent, engine: FakeEngine
) -> None:
    await running(engine)
    await agent.send(signal.SIGSTOP)
    engine.order(run_item(OTHER))
    await asyncio.sleep(1.0)
    engine.absent(OTHER, reason=DownReason.WITHDRAWN)

    await agent.send(signal.SIGCONT)

    await engine.until(lambda e: (OTHER, 1) in e.states, 20)
    state = await engine.until_state(OTHER, VmState.ABSENT)
    assert state.reason is DownReason.WITHDRAWN
    assert set(agent.machine().domains) == {VM}


async def test_health_and_metrics_are_served(agent: Agent, engine: FakeEngine) -> None:
    await running(engine)

    health = json.loads((await agent.get("/health")).content)
    metrics = (await agent.get("/metrics")).text
    nothing = await agent.get("/other")

    assert (health["status"], health["hosts_ok"], health["domains"]) == ("ok", 1, 1)
    assert "chronovisor_agent_starts_total 1.0" in metrics
    assert nothing.status_code == 404
