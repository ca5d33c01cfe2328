"""The engine's own certificates while it runs, and who needs the old CA."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from cryptography import x509

from access import succession
from access.certificates import CertificateAuthority
from access.succession import Authorities
from access.trust import ServerFiles, ensure_server_files
from chronovisor.certificates import CertificateKeeper
from chronovisor.succession import hosts_of
from commands.gateway.tls import ServerConfig
from commands.host.maintenance import MaintainHost
from commands.host.remove import RemoveHost
from tests.unit.gateway.bench import Agent, Bench, opened
from tests.unit.gateway.test_renewal import renewed

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Place:
    """An installation's certificates at a time of the test's choice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOW
        self.reloads = 0
        CertificateAuthority.create(folder / "ca", NOW)
        port = cast("ServerConfig", SimpleNamespace(reload_certificates=self._reload))
        self.keeper = CertificateKeeper(self.files, Authorities(folder / "ca"), (port,))

    def files(self) -> ServerFiles:
        return ensure_server_files(
            self.folder / "ca", self.folder / "tls", "engine", ["x"], [], self.now
        )

    def end(self) -> dt.datetime:
        pem = (self.folder / "tls" / "engine.crt").read_bytes()
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc

    def _reload(self) -> None:
        self.reloads += 1


async def test_the_servers_certificate_is_renewed_while_the_engine_runs(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert await place.keeper.look()
    place.now = NOW + dt.timedelta(days=330)
    assert not await place.keeper.look()
    first = place.end()

    place.now = NOW + dt.timedelta(days=336)

    assert await place.keeper.look()
    assert place.reloads == 2
    assert place.end() > first


async def test_a_folder_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    await place.keeper.look()
    shutil.move(tmp_path / "ca", tmp_path / "away")
    with pytest.raises(ValueError, match="missing"):
        await place.keeper.look()
    shutil.move(tmp_path / "away", tmp_path / "ca")
    assert not await place.keeper.look()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as bench:
        yield bench


async def test_a_host_needs_the_old_ca_until_it_showed_a_certificate_of_the_new(
    bench: Bench,
) -> None:
    agents = [await bench.agent(f"host{number}") for number in (1, 2, 3)]
    old = bench.authorities.current
    succession.begin(bench.folder / "ca", bench.clock.now)
    bench.authorities.refresh()

    async def left(days: int = 0) -> list[str]:
        return await hosts_of(bench.log, old, bench.clock.now + dt.timedelta(days=days))

    assert await left() == ["host1", "host2", "host3"]
    certificate = await renewed(bench, agents[0])
    assert await left() == ["host1", "host2", "host3"]
    agents[0].certificate = certificate
    assert (await agents[0].say_hello()).status == 200
    assert await left() == ["host2", "host3"]
    await _removed(bench, agents[1])
    assert await left() == ["host3"]
    assert await left(365 + 89) == ["host3"]
    assert await left(365 + 91) == []


async def _removed(bench: Bench, agent: Agent) -> None:
    await bench.do(MaintainHost(id=agent.host))
    await bench.settle()
    await bench.do(RemoveHost(id=agent.host))
    await bench.seen()
