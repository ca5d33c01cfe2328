"""More than the engine can do: it says so at once, stays small, and is itself again afterwards."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.harness.processes import pause_tree, resume_tree, wait_until
from tests.harness.workspace import Workspace
from tests.system.chaos_checks import check_all
from tests.system.flood import Answers, Flood
from tests.system.product import Json, Product

pytestmark = pytest.mark.timeout(300)
SETTINGS = """
time_scale = 0.2
[api]
plain_http = true
"""
FOLLOWERS = ("engine", "policies", "projector", "dwh", "notifier")
MIB = 1024**2
GROWTH_BYTES_MAX = 150 * MIB
BEYOND = 700
"""Clients: well beyond the commands that are decided at once."""
ACCEPTED_S_MAX, REFUSED_MEDIAN_S_MAX = 15.0, 2.0
"""Generous, for a machine that others use too: without bounds both grow with the clients."""
RECOVERY_S_MAX = 10.0
SLOW_CLIENTS = 60


class PlainProduct(Product):
    """A product without TLS, so that the clients do not cost more than the engine."""

    @property
    def http(self) -> httpx.Client:
        if self._http is None:
            token = self.folder.admin_token.read_text().strip()
            self._http = httpx.Client(
                base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=30
            )
        return self._http

    def flood(self, prefix: str) -> Flood:
        cluster = self.cluster()

        def body(number: int) -> Json:
            return {"name": f"{prefix}-{number}", "cluster": cluster}

        token = self.folder.admin_token.read_text().strip()
        return Flood(self.url, token, "/v1/vms", body)

    def engine_bytes(self) -> int:
        status = Path(f"/proc/{self.pid('engine')}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def is_itself(self, name: str) -> bool:
        """Whether a command is accepted, at once."""
        began = time.monotonic()
        try:
            answer = self.http.post("/v1/vms", json={"name": name, "cluster": self.cluster()})
        except (httpx.HTTPError, AssertionError):
            return False
        return answer.is_success and time.monotonic() - began < 2


@pytest.fixture(scope="module")
def product(workspace: Workspace) -> Iterator[PlainProduct]:
    product = PlainProduct(workspace, "overload", SETTINGS)
    product.start()
    try:
        yield product
    finally:
        product.stop()


def check_refusals(answers: Answers) -> None:
    assert answers.others == []
    assert answers.overloaded_s, "nothing was turned away"
    assert answers.without_retry_after == 0


def test_beyond_capacity_it_turns_away_at_once_and_serves_the_rest(product: PlainProduct) -> None:
    before = product.engine_bytes()
    answers = asyncio.run(product.flood("flood").run(BEYOND, 10, patient=True))
    check_refusals(answers)
    assert len(answers.accepted_s) > 200
    assert max(answers.accepted_s) < ACCEPTED_S_MAX
    assert statistics.median(answers.overloaded_s) < REFUSED_MEDIAN_S_MAX
    assert product.engine_bytes() - before < GROWTH_BYTES_MAX
    wait_until(lambda: product.is_itself(f"after-{time.monotonic_ns()}"), RECOVERY_S_MAX)
    truth = check_all(product, followers=FOLLOWERS)
    made = sum(one.name == "vm.created" for one in truth.events)
    assert made >= len(answers.accepted_s)


def test_a_database_that_hangs_fills_no_memory_and_delays_no_refusal(
    product: PlainProduct,
) -> None:
    """Who comes before the oldest has waited 250 ms waits; whoever comes later is not kept."""
    before = product.engine_bytes()
    first, flood = product.flood("first"), product.flood("hang")

    async def hang() -> Answers:
        waiting = asyncio.create_task(first.run(20, 0.5))
        await asyncio.sleep(2)
        answers = await flood.run(BEYOND, 10, patient=True)
        await waiting
        return answers

    database = product.pid("postgres")
    pause_tree(database)
    try:
        answers = asyncio.run(hang())
        grown = product.engine_bytes() - before
    finally:
        resume_tree(database)
    check_refusals(answers)
    assert max(first.answers.overloaded_s) < ACCEPTED_S_MAX * 2
    assert answers.accepted_s == []
    assert statistics.median(answers.overloaded_s) < REFUSED_MEDIAN_S_MAX
    assert grown < GROWTH_BYTES_MAX
    wait_until(lambda: product.is_itself(f"again-{time.monotonic_ns()}"), RECOVERY_S_MAX)
    check_all(product, followers=FOLLOWERS)


def test_followers_that_do_not_read_hold_no_memory_and_nobody_up(product: PlainProduct) -> None:
    place = urlsplit(product.url)
    token = product.folder.admin_token.read_text().strip()
    asking = f"GET /v1/stream?after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    before = product.engine_bytes()
    deaf: list[socket.socket] = []
    try:
        for _ in range(SLOW_CLIENTS):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect((place.hostname, place.port))
            one.sendall(asking.encode())
            deaf.append(one)
        asyncio.run(product.flood("followed").run(32, 15))
        assert product.engine_bytes() - before < GROWTH_BYTES_MAX
        with product.http.stream("GET", "/v1/stream", params={"kinds": "vm"}) as followed:
            lines = followed.iter_lines()
            product.post("/v1/vms", {"name": "heard01", "cluster": product.cluster()})
            assert any("heard01" in line for line in lines)
        wait_until(
            lambda: said_cut_off(product) >= SLOW_CLIENTS, 60, "all deaf followers to be cut off"
        )
    finally:
        for one in deaf:
            one.close()


def said_cut_off(product: PlainProduct) -> int:
    log = (product.root / "log" / "engine.log").read_text()
    return log.count("a follower of changes is cut off")
