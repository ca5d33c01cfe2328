"""Renewing on the host: when it asks, what it believes, and what is left of a bad answer."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import ssl
from pathlib import Path

import msgspec
import pytest

from access.certificates import CertificateAuthority
from access.host_keys import make_host_key_and_request
from events.wire.agent import Renew, RenewAnswer
from hostagent.gateway import GatewayAwayError
from hostagent.join import CERTIFICATE_NAME, TRUST_NAME
from hostagent.renewal import BadRenewalError, Renewal
from hostagent.tasks import end_tasks
from hostagent.timings import Timings

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOST = "host-1"


class FakeRenewals:
    """An engine that renews."""

    def __init__(self, folder: Path) -> None:
        self.authority = CertificateAuthority.create(folder / "ca", NOW)
        self.trust = (folder / "ca" / "trust.crt").read_text()
        self.host = HOST
        self.asked = 0
        self.refused = asyncio.Event()
        self.used: list[ssl.SSLContext] = []
        self.away = 0
        self.answer: RenewAnswer | None = None

    def certificate(self, renew: Renew) -> str:
        request = renew.signing_request.encode()
        return self.authority.sign_host_request(request, self.host, NOW).decode()

    async def renew(self, renew: Renew) -> RenewAnswer:
        self.asked += 1
        if self.asked <= self.away:
            raise GatewayAwayError("away")
        if self.answer is not None:
            return self.answer
        return RenewAnswer(certificate=self.certificate(renew), trust=self.trust)

    def use(self, context: ssl.SSLContext) -> None:
        self.used.append(context)


class Machine:
    """A host's state folder and its renewal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "host"
        self.engine = FakeRenewals(folder)
        self.now = NOW
        request = make_host_key_and_request(self.folder, "host")
        first = self.engine.certificate(Renew(signing_request=request.decode()))
        (self.folder / CERTIFICATE_NAME).write_text(first)
        (self.folder / TRUST_NAME).write_text(self.engine.trust)
        self.timed(renew_interval_s=0.2, renew_retry_min_s=0.01)

    def timed(self, **timings: float) -> None:
        self.renewal = Renewal(
            self.folder,
            self.engine,
            Timings(**timings),
            now=lambda: self.now,
            dice=random.Random(1),
        )

    def stored(self) -> tuple[bytes, bytes]:
        folder = self.folder
        return (folder / CERTIFICATE_NAME).read_bytes(), (folder / TRUST_NAME).read_bytes()

    def answer(self, **changes: str) -> None:
        """Let the engine answer what is here, with changes."""
        certificate, trust = self.stored()
        here = RenewAnswer(certificate=certificate.decode(), trust=trust.decode())
        self.engine.answer = msgspec.structs.replace(here, **changes)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_what_is_new_is_stored_and_used(machine: Machine) -> None:
    before = machine.stored()
    assert await machine.renewal.renew()
    assert machine.stored()[0] != before[0]
    assert len(machine.engine.used) == 1


async def test_what_is_here_already_changes_nothing(machine: Machine) -> None:
    machine.answer()
    assert not await machine.renewal.renew()
    assert machine.engine.used == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"certificate": "nonsense"}, "cannot be read"),
        ({"trust": "nonsense"}, "cannot be read"),
        ({"trust": "another CA"}, "not signed by the CA"),
        ({"certificate": "another key"}, "another machine's key"),
        ({"certificate": "another host"}, "another host"),
    ],
)
async def test_what_would_lock_the_host_out_is_not_stored(
    machine: Machine, tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    other = CertificateAuthority.create(tmp_path / "other-ca", NOW)
    strange = make_host_key_and_request(tmp_path / "strange", "host")
    request = make_host_key_and_request(machine.folder, "host")
    sign = machine.engine.authority.sign_host_request
    texts = {
        "another CA": (tmp_path / "other-ca" / "trust.crt").read_text(),
        "another key": sign(strange, HOST, NOW).decode(),
        "another host": sign(request, "host-2", NOW).decode(),
    }
    assert other.fingerprint != machine.engine.authority.fingerprint
    machine.answer(**{name: texts.get(text, text) for name, text in changes.items()})
    before = machine.stored()

    with pytest.raises(BadRenewalError, match=says):
        await machine.renewal.renew()

    assert machine.stored() == before
    assert machine.engine.used == []


@pytest.mark.parametrize(("days", "due"), [(240, False), (245, True), (400, True)])
def test_a_third_of_the_time_is_the_time(
    machine: Machine,
    days: int,
    due: bool,  # noqa: FBT001
) -> None:
    machine.now = NOW + dt.timedelta(days=days)
    assert machine.renewal.is_due() is due


async def test_it_asks_at_once_where_it_is_due_and_again_while_the_engine_is_away(
    machine: Machine,
) -> None:
    machine.now = NOW + dt.timedelta(days=300)
    machine.engine.away = 3
    running = asyncio.create_task(machine.renewal.run())
    try:
        async with asyncio.timeout(5):
            while not machine.engine.used:
                await asyncio.sleep(0.005)
    finally:
        await end_tasks({running})
    assert machine.engine.asked == 4


async def test_it_asks_now_and_then(machine: Machine) -> None:
    machine.answer()
    running = asyncio.create_task(machine.renewal.run())
    try:
        async with asyncio.timeout(5):
            while machine.engine.asked < 3:
                await asyncio.sleep(0.005)
    finally:
        await end_tasks({running})
    assert machine.engine.used == []


async def test_it_asks_soon_where_the_engine_refuses_the_certificate(machine: Machine) -> None:
    machine.timed(renew_interval_s=3_600.0, renew_retry_min_s=0.01)
    running = asyncio.create_task(machine.renewal.run())
    try:
        await asyncio.sleep(0.05)
        assert machine.engine.asked == 0
        machine.engine.refused.set()
        async with asyncio.timeout(5):
            while not machine.engine.used:
                await asyncio.sleep(0.005)
        assert not machine.engine.refused.is_set()
    finally:
        await end_tasks({running})


async def test_a_host_that_is_refused_all_the_time_asks_ever_more_rarely(machine: Machine) -> None:
    machine.answer()
    machine.timed(renew_interval_s=3_600.0, renew_retry_min_s=0.02)
    running = asyncio.create_task(machine.renewal.run())
    try:
        for _ in range(60):
            machine.engine.refused.set()
            await asyncio.sleep(0.01)
    finally:
        await end_tasks({running})
    assert 2 <= machine.engine.asked <= 12
