"""Readers of large pages, and agents, that ask over TLS and do not read what they are answered."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chronovisor.installation import Installation
from commands.gateway.pacing import ANSWER_TIMEOUT_S
from tests.harness.deaf import Deaf
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.flood import Flood
from tests.system.product import Json, Product

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
MIB = 1024**2
WAVES, READERS, AGENTS = 3, 40, 20
WAVE_S = 4.0
VMS = 600
DESCRIPTION = "What somebody once wrote about this machine. " * 80
PAGE_BYTES_MIN = 2 * MIB
GROWTH_BYTES_MAX = 450 * MIB
"""The bound of 64 MiB, and what is asked for within the second that each is given: one wave's pages
(200 to 270 MiB, on a busy machine). Those of all waves together would be a GiB.
"""
CUT_S_MAX = ANSWER_TIMEOUT_S + 30
"""The second half is for a machine that others use too."""
QUESTIONS = 800
ORDERS = b"/agent/v1/orders?session=x&after=0"


class TlsProduct(Product):
    """A product as it is by default, whose engine's memory can be counted."""

    @property
    def trust(self) -> Path:
        return self.folder.authority / "trust.crt"

    def fill(self) -> None:
        """Make VMs, until a page of them is large."""
        cluster = self.cluster()

        def body(number: int) -> Json:
            return {"name": f"vm-{number}", "cluster": cluster, "description": DESCRIPTION}

        context = ssl.create_default_context(cafile=str(self.trust))
        flood = Flood(self.url, self.token(), "/v1/vms", body, context)
        while len(flood.answers.accepted_s) < VMS:
            asyncio.run(flood.run(16, 2))

    def token(self) -> str:
        return self.folder.admin_token.read_text().strip()

    def page_bytes(self) -> int:
        page = self.http.get("/v1/vms", params={"limit": "10000", "fields": "*"})
        assert page.is_success
        return len(page.content)

    def engine_bytes(self) -> int:
        status = Path(f"/proc/{self.pid('engine')}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def readers(self) -> Deaf:
        """Clients of the API that trust the engine."""
        place = urlsplit(self.url)
        context = ssl.create_default_context(cafile=str(self.trust))
        return Deaf(str(place.hostname), int(place.port or 0), context)

    def agents(self) -> Deaf:
        """Clients of the gateway that show the certificate of a host."""
        addresses = Installation.open(self.root).read_addresses()
        assert addresses is not None
        place = urlsplit(addresses.gateway)
        (certificate,) = self.folder.hosts.glob("simulated/*/host.crt")
        context = ssl.create_default_context(cafile=str(self.trust))
        context.load_cert_chain(certificate, certificate.with_name("host.key"))
        return Deaf(str(place.hostname), int(place.port or 0), context)

    def said_cut_off(self) -> int:
        log = (self.root / "log" / "engine.log").read_text()
        return log.count("a client that does not read its answer is cut off")


@pytest.fixture
def product(workspace: Workspace) -> Iterator[TlsProduct]:
    product = TlsProduct(workspace, "slow", "time_scale = 0.2\n")
    product.start()
    try:
        yield product
    finally:
        product.stop()


def test_who_does_not_read_holds_no_memory_and_nobody_up_and_is_cut_off(
    product: TlsProduct,
) -> None:
    product.fill()
    wait_until(lambda: product.page_bytes() > PAGE_BYTES_MIN, 60, "the inventory to follow")
    most = before = product.engine_bytes()
    waves, agents = [product.readers() for _ in range(WAVES)], product.agents()

    def look() -> None:
        nonlocal most
        most = max(most, product.engine_bytes())

    try:
        agents.join(AGENTS)
        agents.ask(
            b"GET /agent/v1/orders?session=x&after=0 HTTP/1.1\r\nHost: x\r\n\r\n" * QUESTIONS
        )
        for readers in waves:
            readers.join(READERS)
            readers.ask(
                "GET /v1/vms?limit=10000&fields=* HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: Bearer {product.token()}\r\n\r\n".encode()
            )
            look()
            time.sleep(WAVE_S)
        look()
        product.post("/v1/vms", {"name": "meanwhile", "cluster": product.cluster()})
        for deaf in (*waves, agents):
            deaf.await_cut(CUT_S_MAX, look)
    finally:
        for deaf in (*waves, agents):
            deaf.close()
    assert most - before < GROWTH_BYTES_MAX, f"{(most - before) / MIB:.0f} MiB"
    assert product.said_cut_off() >= WAVES * READERS + AGENTS
    # The host whose certificate they showed has its session, and takes orders.
    vm = product.post("/v1/vms", {"name": "after", "cluster": product.cluster()})["id"]
    product.post(f"/v1/vms/{vm}/start")
    product.await_status(f"/v1/vms/{vm}", "up")
    wait_until(lambda: product.get("/v1/health")["ok"] is True, what="every part to be well")
