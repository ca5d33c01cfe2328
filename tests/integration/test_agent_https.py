"""Joining and talking over real TLS: what is pinned, what is checked, what is bounded."""

import asyncio
import base64
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.responses import Response

from events.types.vm import DownReason
from events.wire.agent import VmState
from hostagent.client import HttpsGateway, agent_context
from hostagent.control import say
from hostagent.fleet import Fleet, simulated_host
from hostagent.gateway import GatewayAwayError, GatewayRefusedError, SessionEndedError
from hostagent.join import (
    CERTIFICATE_NAME,
    KEY_NAME,
    TRUST_NAME,
    JoinPendingError,
    JoinRefusedError,
    join,
    load_joined,
)
from hostagent.simulated_state import Control, Do
from hostagent.tasks import end_tasks
from tests.harness.agent_server import AgentServer
from tests.unit.hostagent.conftest import TIMINGS
from tests.unit.hostagent.samples import VM, run_item

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path) -> AgentServer:
    return AgentServer(tmp_path / "server")


async def joined(server: AgentServer, folder: Path, hardware: str = "hw1") -> None:
    async with server.serving():
        await join(server.url, server.token(), folder, hardware=hardware, poll_min_s=0.01)


class TestJoin:
    async def test_a_machine_waits_for_its_approval_and_keeps_its_key(
        self, server: AgentServer, tmp_path: Path
    ) -> None:
        folder = tmp_path / "host"
        server.pending = 2
        async with server.serving():
            done = await join(
                server.url, server.token(), folder, hardware="hw1", name="web", poll_min_s=0.01
            )

        assert (done.host, done.name, done.gateway) == ("id-hw1", "name-hw1", server.url)
        assert stat.S_IMODE((folder / KEY_NAME).stat().st_mode) == 0o600
        assert len({one.signing_request for one in server.joins}) == 1
        assert "PRIVATE" not in server.joins[0].signing_request

    async def test_joining_again_finds_what_was_done(
        self, server: AgentServer, tmp_path: Path
    ) -> None:
        await joined(server, tmp_path / "host")

        again = await join(server.url, "", tmp_path / "host", hardware="hw1")

        assert again == load_joined(tmp_path / "host")
        assert len(server.joins) == 1

    async def test_an_interrupted_join_goes_on_with_the_same_key(
        self, server: AgentServer, tmp_path: Path
    ) -> None:
        folder = tmp_path / "host"
        server.pending = 1_000
        async with server.serving():
            with pytest.raises(JoinPendingError, match="approved"):
                await join(
                    server.url,
                    server.token(),
                    folder,
                    hardware="hw1",
                    approval_timeout_s=0.3,
                    poll_min_s=0.01,
                )
            key = (folder / KEY_NAME).read_bytes()
            server.pending = 0
            await join(server.url, server.token(), folder, hardware="hw1")

        assert (folder / KEY_NAME).read_bytes() == key

    async def test_another_engine_is_not_believed_and_never_sees_the_token(
        self, server: AgentServer, tmp_path: Path
    ) -> None:
        impostor = AgentServer(tmp_path / "impostor")
        async with impostor.serving():
            with pytest.raises(JoinRefusedError, match="fingerprint"):
                await join(impostor.url, server.token(), tmp_path / "host", hardware="hw1")

        assert impostor.joins == []
        assert load_joined(tmp_path / "host") is None

    async def test_a_stolen_ca_certificate_does_not_make_an_engine(
        self, server: AgentServer, tmp_path: Path
    ) -> None:
        impostor = AgentServer(tmp_path / "impostor")
        trust = (server.folder / "ca" / "trust.crt").read_bytes()
        (impostor.folder / "ca" / "trust.crt").write_bytes(trust)
        async with impostor.serving():
            with pytest.raises(JoinRefusedError, match="CA that the token names"):
                await join(impostor.url, server.token(), tmp_path / "host", hardware="hw1")

        assert impostor.joins == []

    async def test_a_refusal_says_why(self, server: AgentServer, tmp_path: Path) -> None:
        server.answer = Response(b'{"title":"TokenRefused","detail":"expired"}', status_code=403)
        async with server.serving():
            with pytest.raises(JoinRefusedError, match="expired"):
                await join(server.url, server.token(), tmp_path / "host", hardware="hw1")

    @pytest.mark.parametrize("token", ["", "cvj1.x.y.z", "cvj2." + "a" * 100])
    async def test_a_spoilt_token_is_refused_and_not_repeated(
        self, tmp_path: Path, token: str
    ) -> None:
        with pytest.raises(JoinRefusedError) as refused:
            await join("https://127.0.0.1:1", token, tmp_path / "host", hardware="hw1")
        assert not token or token not in str(refused.value)

    async def test_the_token_does_not_go_in_the_clear(
        self, server: AgentServer, tmp_path: Path
    ) -> None:
        with pytest.raises(JoinRefusedError, match="https"):
            await join("http://192.0.2.1:80", server.token(), tmp_path, hardware="hw1")

    async def test_an_engine_that_is_not_there_is_waited_for(
        self, server: AgentServer, tmp_path: Path
    ) -> None:
        with pytest.raises(JoinPendingError, match="did not answer"):
            await join(
                server.url,
                server.token(),
                tmp_path / "host",
                hardware="hw1",
                approval_timeout_s=0.3,
                poll_min_s=0.01,
            )


@pytest.fixture
async def gateway(server: AgentServer, tmp_path: Path) -> AsyncIterator[HttpsGateway]:
    folder = tmp_path / "host"
    await joined(server, folder)
    context = agent_context(folder / CERTIFICATE_NAME, folder / KEY_NAME, folder / TRUST_NAME)
    gateway = HttpsGateway(server.url, context, request_timeout_s=0.5)
    yield gateway
    await gateway.close()


class TestGateway:
    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (409, SessionEndedError),
            (403, GatewayRefusedError),
            (400, GatewayRefusedError),
            (500, GatewayAwayError),
            (503, GatewayAwayError),
        ],
    )
    async def test_each_refusal_is_known_for_what_it_is(
        self, server: AgentServer, gateway: HttpsGateway, status: int, error: type[Exception]
    ) -> None:
        body = b'{"title":"NotYourHost","detail":"because"}'
        server.answer = Response(body, status_code=status, headers={"retry-after": "7"})
        async with server.serving(mutual=True):
            with pytest.raises(error, match="because") as raised:
                await gateway.orders("hw1/s", 0, 0.1)

        if isinstance(raised.value, GatewayAwayError):
            assert raised.value.retry_after_s == 7
            assert not raised.value.on_its_way

    async def test_what_was_sent_in_vain_may_still_be_under_way(
        self, server: AgentServer, gateway: HttpsGateway
    ) -> None:
        with pytest.raises(GatewayAwayError) as nobody:
            await gateway.orders("hw1/s", 0, 0.1)
        server.hangs = True
        async with server.serving(mutual=True):
            with pytest.raises(GatewayAwayError) as silent:
                await gateway.orders("hw1/s", 0, 0.1)
        assert (nobody.value.on_its_way, silent.value.on_its_way) == (False, True)

    async def test_the_word_of_a_doubt_is_taken_from_the_refusal(
        self, server: AgentServer, gateway: HttpsGateway
    ) -> None:
        server.answer = Response(b'{"title":"SessionOver","doubt":"a word"}', status_code=409)
        async with server.serving(mutual=True):
            with pytest.raises(SessionEndedError) as raised:
                await gateway.orders("hw1/s", 0, 0.1)
        assert raised.value.doubt == "a word"

    async def test_nonsense_is_refused(self, server: AgentServer, gateway: HttpsGateway) -> None:
        server.answer = Response(b"<html>")
        async with server.serving(mutual=True):
            with pytest.raises(GatewayRefusedError, match="sense"):
                await gateway.orders("hw1/s", 0, 0.1)

    async def test_an_engine_that_says_nothing_is_away(
        self, server: AgentServer, gateway: HttpsGateway
    ) -> None:
        server.hangs = True
        async with server.serving(mutual=True):
            with pytest.raises(GatewayAwayError):
                await gateway.orders("hw1/s", 0, 0.1)

    async def test_an_engine_of_another_ca_is_not_spoken_to(
        self, server: AgentServer, gateway: HttpsGateway, tmp_path: Path
    ) -> None:
        impostor = AgentServer(tmp_path / "impostor")
        impostor.port = server.port
        async with impostor.serving():
            with pytest.raises(GatewayAwayError, match="CERTIFICATE_VERIFY_FAILED"):
                await gateway.orders("hw1/s", 0, 0.1)

    async def test_no_news_is_no_change(self, server: AgentServer, gateway: HttpsGateway) -> None:
        async with server.serving(mutual=True):
            server.engine("hw1").session = "hw1/s"
            server.engine("hw1").position = 12
            orders = await gateway.orders("hw1/s", 12, 0.05)

        assert (orders.changes.position, orders.changes.vms) == (12, ())


async def test_a_fleet_runs_the_vms_of_its_hosts(server: AgentServer, tmp_path: Path) -> None:
    names = ["hw1", "hw2", "hw3"]
    async with server.serving(mutual=False):
        for name in names:
            await join(server.url, server.token(), tmp_path / name, hardware=name)
    control = tmp_path / "control"
    setups = [simulated_host(tmp_path / n, name=n, hardware=n) for n in names]
    fleet = Fleet(setups, timings=TIMINGS, control=control)
    async with server.serving(mutual=True):
        task = asyncio.create_task(fleet.run())
        for number, name in enumerate(names, 1):
            server.engine(name).order(run_item(VM, number))
        for number, name in enumerate(names, 1):
            await server.engine(name).until_state(VM, VmState.RUNNING, number)

        assert [host.connected for host in fleet.health()] == [True] * 3
        assert b"chronovisor_agent_hosts_connected 3.0" in fleet.measure()

        say(control, "hw1", Control(do=Do.CRASH, vm=VM))
        say(control, "name-hw2", Control(do=Do.POWER_OFF, off_s=0.1))
        crashed = await server.engine("hw1").until_state(VM, VmState.ABSENT, 1)
        lost = await server.engine("hw2").until_state(VM, VmState.ABSENT, 2)
        await end_tasks({task})

    assert crashed.reason is DownReason.CRASHED
    assert lost.reason is DownReason.HOST_LOST
    boots = {hello.boot for hello in server.engine("hw2").hellos}
    assert len(boots) == 2
    assert server.engine("hw3").states[VM, 3].state is VmState.RUNNING


def test_the_token_fingerprint_is_of_the_certificate(server: AgentServer) -> None:
    text = server.token().rpartition(".")[2]
    assert len(base64.urlsafe_b64decode(text + "=")) == 32
