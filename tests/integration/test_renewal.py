"""Renewal, removal and the succession of CAs over real TLS: gateway, agents and clock."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import shutil
import socket
import ssl
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from access import succession
from access.host_keys import make_host_key_and_request
from access.trust import ServerFiles, ensure_server_files
from chronovisor.certificates import CertificateKeeper
from commands.gateway import tls
from commands.gateway.reception import bind
from commands.gateway.renewal import RENEW_PATH
from commands.gateway.tls import ServerConfig
from commands.host.add import AddHost
from commands.host.maintenance import MaintainHost
from commands.host.remove import RemoveHost
from events.wire.agent import PROTOCOL, Hello, Join, Welcome
from hostagent.client import HttpsGateway, agent_context
from hostagent.fleet import Fleet, simulated_host
from hostagent.gateway import GatewayAwayError, GatewayError, GatewayRefusedError
from hostagent.join import CERTIFICATE_NAME, JOINED_NAME, KEY_NAME, TRUST_NAME, Joined
from hostagent.renewal import BadRenewalError, Renewal
from hostagent.tasks import end_tasks
from hostagent.timings import Timings
from tests.simulation.restore import cut_back
from tests.unit.gateway.bench import Bench, opened
from tests.unit.policies.stage import CAPABILITIES

pytestmark = pytest.mark.integration
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
TIMINGS = Timings().scaled(0.05)


class Site:
    """An engine's gateway behind real TLS, and hosts that joined it."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self.folder = folder
        self.listener = bind("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.config = self._config()
        self.keeper = CertificateKeeper(self.files, bench.authorities, (self.config,))
        bench.engine.view.on_barred = self.config.cut_soon

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        return self.bench.folder / "ca"

    def files(self) -> ServerFiles:
        return ensure_server_files(self.ca, self.folder, "engine", [], ["127.0.0.1"], NOW)

    def _config(self) -> ServerConfig:
        files = self.files()
        return tls.server_config(
            self.bench.engine.gateway.app(),
            host="127.0.0.1",
            port=self.port,
            certificate=files.certificate,
            key=files.key,
            ca_bundle=files.trust,
            expired_paths=frozenset({RENEW_PATH}),
            now=lambda: self.bench.clock.now,
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Site]:
        stop, started = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(
            tls.serve((self.config, self.listener), stop=stop, on_started=started.set)
        )
        await asyncio.wait_for(started.wait(), 5)
        try:
            yield self
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)

    async def join(self, name: str) -> Machine:
        """Let a machine join as a host of this name."""
        bench, folder = self.bench, self.folder / name
        host = await bench.do(AddHost(name=name, cluster=bench.cluster, approved=True))
        request = make_host_key_and_request(folder, name)
        join = Join(
            token=await bench.token(host), signing_request=request.decode(), hardware=f"hw-{name}"
        )
        answer = await bench.enrolment.join(join, bench.source_for("machine"))
        await bench.seen()
        assert answer.certificate is not None
        (folder / CERTIFICATE_NAME).write_text(answer.certificate)
        (folder / TRUST_NAME).write_text(answer.trust)
        joined = Joined(host=host, name=name, gateway=self.url)
        (folder / JOINED_NAME).write_bytes(msgspec.json.encode(joined))
        return Machine(host, name, folder, self)

    async def remove(self, host: str) -> None:
        """Remove a host in good order."""
        await self.bench.do(MaintainHost(id=host))
        await self.bench.settle()
        await self.bench.do(RemoveHost(id=host))
        await self.bench.seen()


class Machine:
    """A host's agent, as far as its certificate goes."""

    def __init__(self, host: str, name: str, folder: Path, site: Site) -> None:
        self.host, self.name, self.folder = host, name, folder
        self.gateway = HttpsGateway(site.url, self.context(), request_timeout_s=5)
        self.renewal = Renewal(folder, self.gateway, TIMINGS, dice=random.Random(1))

    def context(self) -> ssl.SSLContext:
        folder = self.folder
        return agent_context(folder / CERTIFICATE_NAME, folder / KEY_NAME, folder / TRUST_NAME)

    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / CERTIFICATE_NAME).read_bytes())

    def authorities(self) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates((self.folder / TRUST_NAME).read_bytes())

    async def hello(self) -> Welcome:
        return await self.gateway.hello(
            Hello(
                boot=f"boot-{self.name}",
                hardware=f"hw-{self.name}",
                protocols=(PROTOCOL,),
                agent_version="1",
                time=NOW,
                capabilities=CAPABILITIES,
            )
        )


@contextlib.asynccontextmanager
async def connected(fleet: Fleet) -> AsyncIterator[None]:
    """Have agents run, until the first of them was welcome and what follows is over."""
    running = asyncio.create_task(fleet.run())
    try:
        async with asyncio.timeout(20):
            while not any(one.connected for one in fleet.health()):
                await asyncio.sleep(0.05)
        yield
    finally:
        await end_tasks({running})


@contextlib.asynccontextmanager
async def followed(bench: Bench) -> AsyncIterator[None]:
    """Have the bench's engine follow the log."""
    following = asyncio.create_task(bench.engine.follow())
    try:
        yield
    finally:
        await end_tasks({following})


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench whose clock is 430 days behind, so that certificates of today's have ended."""
    async with opened(tmp_path / "bench", NOW - 430 * DAY) as bench:
        yield bench


@pytest.fixture
async def site(bench: Bench, tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(bench, tmp_path / "site")
    async with site.serving():
        yield site


async def test_an_expired_certificate_reaches_the_renewal_and_nothing_else(site: Site) -> None:
    machine = await site.join("host1")
    site.bench.clock.now = NOW
    assert machine.certificate().not_valid_after_utc < NOW
    for attempt in (machine.hello(), machine.gateway.orders("s", 0, 0)):
        with pytest.raises(GatewayRefusedError, match="renewal"):
            await attempt

    assert await machine.renewal.renew()

    assert machine.certificate().not_valid_after_utc > NOW + 360 * DAY
    assert (await machine.hello()).session
    assert not await machine.renewal.renew()
    await machine.gateway.close()


async def test_after_90_days_it_is_too_late(site: Site) -> None:
    machine = await site.join("host1")
    site.bench.clock.now = machine.certificate().not_valid_after_utc + 91 * DAY
    with pytest.raises(GatewayRefusedError, match="too long ago"):
        await machine.renewal.renew()
    await machine.gateway.close()


async def test_a_connection_that_outlives_its_certificate_is_good_for_nothing_more(
    site: Site,
) -> None:
    machine = await site.join("host1")
    session = (await machine.hello()).session
    assert (await machine.gateway.orders(session, 10_000, 0)).changes.vms == ()

    site.bench.clock.now = NOW

    with pytest.raises(GatewayRefusedError, match="renewal"):
        await machine.gateway.orders(session, 10_000, 0)
    await machine.gateway.close()


async def test_an_agent_that_was_off_comes_back_by_itself(site: Site) -> None:
    """given an agent whose certificate has ended, when it starts, then it is up soon"""
    machine = await site.join("host1")
    site.bench.clock.now = NOW
    fleet = Fleet(
        [simulated_host(machine.folder, name="host1", hardware="hw-host1")], timings=TIMINGS
    )
    async with connected(fleet):
        assert machine.certificate().not_valid_after_utc > NOW
    names = await site.bench.names()
    assert names.index("host.certificate_taken_up") < names.index("host.session_started")
    await machine.gateway.close()


async def test_a_host_whose_renewal_a_restored_backup_forgot_comes_back_by_itself(
    site: Site, tmp_path: Path
) -> None:
    """given a host renewed after the backup, when that is restored, then it is up again soon"""
    bench = site.bench
    machine = await site.join("host1")
    backup = await bench.log.head()
    bench.clock.now += 300 * DAY
    assert await machine.renewal.renew()
    assert (await machine.hello()).session
    await machine.gateway.close()

    bench.log = cut_back(bench.log, backup, uuid.uuid4())
    bench.engine = bench.new_engine()
    async with followed(bench), Site(bench, tmp_path / "restored").serving() as restored:
        refused = Machine(machine.host, "host1", machine.folder, restored)
        forgotten = refused.certificate()
        with pytest.raises(GatewayRefusedError, match="not the host's newest"):
            await refused.hello()
        await refused.gateway.close()

        joined = Joined(host=machine.host, name="host1", gateway=restored.url)
        (machine.folder / JOINED_NAME).write_bytes(msgspec.json.encode(joined))
        fleet = Fleet(
            [simulated_host(machine.folder, name="host1", hardware="hw-host1")],
            timings=msgspec.structs.replace(TIMINGS, renew_interval_s=3_600.0),
        )
        async with connected(fleet):
            assert machine.certificate() != forgotten


async def test_a_session_goes_on_over_a_renewal(site: Site) -> None:
    """given a poll that waits on the old certificate, when it is renewed, then nothing is lost"""
    machine = await site.join("host1")
    site.bench.clock.now += 300 * DAY
    session = (await machine.hello()).session
    polling = asyncio.create_task(machine.gateway.orders(session, 10_000, 30))
    await asyncio.sleep(0.2)

    assert await machine.renewal.renew()

    with pytest.raises(GatewayAwayError):  # which the agent answers by asking again
        await asyncio.wait_for(polling, 5)
    assert (await machine.gateway.orders(session, 10_000, 0)).changes.vms == ()
    assert (await site.bench.names())[-1] == "host.certificate_taken_up"
    await machine.gateway.close()


@pytest.mark.parametrize("kept", [CERTIFICATE_NAME, TRUST_NAME])
async def test_an_agent_killed_while_it_stores_goes_on(site: Site, kept: str) -> None:
    """given that only one of the two files was written, when it starts anew, then it is heard"""
    machine = await site.join("host1")
    site.bench.clock.now += 300 * DAY
    old = (machine.folder / kept).read_bytes()
    assert await machine.renewal.renew()
    (machine.folder / kept).write_bytes(old)

    again = Machine(machine.host, "host1", machine.folder, site)

    assert (await again.hello()).session
    await again.renewal.renew()
    assert (await again.hello()).session
    for one in (machine, again):
        await one.gateway.close()


async def test_another_hosts_certificate_is_not_stored(site: Site) -> None:
    machine, other = await site.join("host1"), await site.join("host2")
    stored = (machine.folder / CERTIFICATE_NAME).read_bytes()
    shutil.copy(other.folder / KEY_NAME, machine.folder / KEY_NAME)
    mixed = Renewal(machine.folder, other.gateway, TIMINGS)

    with pytest.raises(BadRenewalError, match="another host"):
        await mixed.renew()

    assert (machine.folder / CERTIFICATE_NAME).read_bytes() == stored
    for one in (machine, other):
        await one.gateway.close()


def idle_connection(site: Site, machine: Machine) -> ssl.SSLSocket:
    """Connect, and say nothing."""
    plain = socket.create_connection(("127.0.0.1", site.port), timeout=5)
    return machine.context().wrap_socket(plain, server_hostname="127.0.0.1")


async def test_removal_cuts_what_is_open(site: Site) -> None:
    machine, other = await site.join("host1"), await site.join("host2")
    session = (await machine.hello()).session
    polling = asyncio.create_task(machine.gateway.orders(session, 10_000, 60))
    idle = await asyncio.to_thread(idle_connection, site, machine)
    spared = await asyncio.to_thread(idle_connection, site, other)
    await asyncio.sleep(0.2)
    assert len(site.config.peers[machine.host]) == 2

    await site.remove(machine.host)

    with pytest.raises(GatewayError):
        await asyncio.wait_for(polling, 5)
    with contextlib.suppress(OSError):  # cut is cut: by an end or by a reset
        assert await asyncio.wait_for(asyncio.to_thread(idle.recv, 1), 5) == b""
    assert machine.host not in site.config.peers
    assert len(site.config.peers[other.host]) == 1
    with pytest.raises(GatewayRefusedError):
        await machine.hello()
    with pytest.raises(GatewayRefusedError):
        await machine.renewal.renew()
    for connection in (idle, spared):
        connection.close()
    for one in (machine, other):
        await one.gateway.close()


async def test_one_ca_takes_the_place_of_another_while_hosts_are_served(site: Site) -> None:
    early, late = await site.join("host1"), await site.join("host2")
    old = site.bench.authorities.current
    await site.keeper.look()
    new = succession.begin(site.ca, site.bench.clock.now)
    assert await site.keeper.look()

    # Hosts move over, one by one; servers stay as they are, for those who have not heard yet.
    assert await early.renewal.renew()
    assert new.issued(early.certificate())
    assert early.authorities() == [old.certificate, new.certificate]
    assert (await early.hello()).session
    assert (await late.hello()).session
    joined_meanwhile = await site.join("host3")
    assert new.issued(joined_meanwhile.certificate())
    assert (await joined_meanwhile.hello()).session
    assert await late.renewal.renew()

    succession.finish(site.ca)
    assert await site.keeper.look()
    shown = x509.load_pem_x509_certificate(site.files().certificate.read_bytes())
    assert new.issued(shown)
    for machine in (early, late, joined_meanwhile):
        fresh = Machine(machine.host, machine.name, machine.folder, site)
        assert (await fresh.hello()).session
        assert await fresh.renewal.renew()
        assert fresh.authorities() == [new.certificate]
        assert (await fresh.hello()).session
        await fresh.gateway.close()
        await machine.gateway.close()


async def test_a_host_that_missed_the_whole_succession_joins_again(site: Site) -> None:
    machine = await site.join("host1")
    succession.begin(site.ca, site.bench.clock.now)
    succession.finish(site.ca)
    assert await site.keeper.look()

    with pytest.raises(GatewayAwayError, match="CERTIFICATE_VERIFY_FAILED"):
        await machine.hello()

    await machine.gateway.close()
