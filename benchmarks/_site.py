"""The product with simulated hosts by the thousand: its processes, what they take, and waiting."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import psycopg
import uvloop

from benchmarks._enrolment import NewHost, enrol
from benchmarks._lean_gateway import LeanGateway
from benchmarks._processes import part_pids, processor_s
from chronovisor.installation import Addresses, Installation
from chronovisor.parts.fleet import simulated_hardware
from chronovisor.running import configure_logging
from hostagent.fleet import simulated_host
from hostagent.process import AgentProcess, run_agent
from tests.harness.processes import free_port, start_process, wait_until
from tests.harness.workspace import Workspace
from tests.system.product import PROJECT, Product

VMS_ON_A_HOST = 10
HOSTS_IN_A_PROCESS = 500
HOSTS_ON_AN_ENGINE = 8_000
TELEMETRY_INTERVAL_S = 60.0
LAUNCH_TIMEOUT_S = 7_200.0
"""All VMs start at once, on two processors that are the hosts' too: none is to be given up."""
SILENT_TIMEOUT_S = 600.0
"""Nor is a host lost whose agent shares a processor with five thousand others."""
TIMEOUT_S = 7_200.0
SHOWN_S_MIN = 0.05


def be_hosts(folders: list[str]) -> None:
    """Be the agents of some hosts, until killed."""
    os.environ["MALLOC_ARENA_MAX"] = "2"
    configure_logging(quiet=True)
    hosts = [
        simulated_host(
            Path(folder), name=Path(folder).name, hardware=simulated_hardware(Path(folder).name)
        )
        for folder in folders
    ]
    uvloop.run(run_agent(AgentProcess(hosts=hosts, connect=LeanGateway)))


class Site:
    """The product, with agents for many hosts; `settings` come behind those that all sites have."""

    def __init__(
        self,
        workspace: Workspace,
        vms: int,
        *,
        telemetry_interval_s: float = TELEMETRY_INTERVAL_S,
        settings: str = "",
    ) -> None:
        self.vms = vms
        self.hosts = max(1, vms // VMS_ON_A_HOST)
        self.found: dict[str, float] = {}
        self.telemetry_interval_s = telemetry_interval_s
        whole = (
            f"[hosts]\ntelemetry_interval_s = {telemetry_interval_s}\n"
            f"silent_timeout_s = {SILENT_TIMEOUT_S}\n"
            f"[policies]\nlaunch_timeout_s = {LAUNCH_TIMEOUT_S}\n"
            f"{settings}"
        )
        self.memory = tempfile.mkdtemp(prefix="chronovisor-bench-", dir=_memory_folder())
        self.product = Product(workspace, f"scale-{vms}", whole, hosts=0)
        self.fleets: list[SpawnProcess] = []
        self.gateways: list[str] = []
        self._second: subprocess.Popen[bytes] | None = None
        self.workspace = workspace

    def open(self) -> None:
        """Start the product."""
        began = time.monotonic()
        self.product.start()
        self.note("start of everything, empty", time.monotonic() - began)
        installation = Installation.open(self.product.root)
        addresses = installation.read_addresses()
        assert addresses is not None
        self.gateways = [addresses.gateway]
        if self.hosts > HOSTS_ON_AN_ENGINE:
            self.gateways.append(self._start_second(installation, addresses))

    def _start_second(self, installation: Installation, first: Addresses) -> str:
        """Start a second engine beside that of `up`; return where its gateway is."""
        ports = {"CHRONOVISOR_API__PORT": free_port(), "CHRONOVISOR_GATEWAY__PORT": free_port()}
        self._second = start_process(
            [
                *(sys.executable, "-P", "-m", "chronovisor.parts", "engine"),
                *("--dir", str(self.product.root)),
            ],
            self.product.root / "log" / "engine-2.log",
            folder=PROJECT,
            environment={name: str(port) for name, port in ports.items()},
        )
        self.workspace.note_process(self._second.pid)
        wait_until(
            lambda: installation.read_addresses() not in {None, first}, 60, "the second engine"
        )
        second = installation.read_addresses()
        assert second is not None
        installation.write_addresses(first)  # where clients find the API
        return second.gateway

    def end_second(self) -> None:
        """End the second engine and the agents that talk to it."""
        if self._second is None:
            return
        for fleet in self.fleets[len(self.fleets) // 2 :]:
            fleet.kill()
        self._second.kill()
        self._second.wait()
        self._second = None

    def close(self) -> None:
        """End everything."""
        self.end_second()
        for fleet in self.fleets:
            fleet.kill()
            fleet.join()
        self.product.stop()
        shutil.rmtree(self.memory, ignore_errors=True)

    def note(self, what: str, figure: float, unit: str = "s") -> None:
        """Keep and print a figure."""
        self.found[what] = figure
        print(f"  {self.vms:>7,} VMs  {what:<58} {figure:>12,.3f} {unit}", flush=True)

    @contextlib.contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Note how long something takes, and what of the processors each process takes for it."""
        before = self.processor_s()
        began = time.monotonic()
        yield
        self.note(what, time.monotonic() - began)
        after = self.processor_s()
        spent = {name: after[name] - before.get(name, 0.0) for name in after}
        told = ", ".join(
            f"{name} {spent[name]:.1f}" for name in spent if spent[name] >= SHOWN_S_MIN
        )
        print(f"           processor seconds: {told}", flush=True)
        self.found[f"{what}, processors"] = sum(spent[name] for name in spent if name != "agents")

    def processor_s(self) -> dict[str, float]:
        """Return what each process took of the processors so far."""
        pids = part_pids(self.product.root)
        del pids["supervisor"]  # its children are the parts
        taken = {name: processor_s(pid) for name, pid in pids.items()}
        if self._second is not None:
            taken["engine"] += processor_s(self._second.pid)
        taken["agents"] = sum(processor_s(fleet.pid) for fleet in self.fleets if fleet.pid)
        return taken

    # --------------------------------------------------------------------- the steps

    def add_hosts(self) -> None:
        """Enrol all hosts, start their agents, and wait until each has its session."""
        installation = Installation.open(self.product.root)
        places = [self.product.folder.hosts / f"host-{number:05d}" for number in range(self.hosts)]
        cluster = self.product.items("/v1/clusters", name="Default")[0]
        center = str(cluster["data_center"]["id"])
        half = -(-self.hosts // len(self.gateways))
        new = [
            NewHost(name=place.name, folder=place, gateway=self.gateways[number // half])
            for number, place in enumerate(places)
        ]
        with self.phase("enrol the hosts (events appended, keys made)"):
            uvloop.run(enrol(installation, str(cluster["id"]), center, new))
        context = multiprocessing.get_context("spawn")
        with self.phase("all agents start and say hello"):
            for first in range(0, len(places), HOSTS_IN_A_PROCESS):
                some = [str(place) for place in places[first : first + HOSTS_IN_A_PROCESS]]
                fleet = context.Process(target=be_hosts, args=(some,))
                fleet.start()
                self.workspace.note_process(fleet.pid or 0)
                self.fleets.append(fleet)
                # All at once, on the processors that the engine needs, they would starve it of what
                # their own handshakes take.
                count = "select count(*) from inventory.hosts where status = 'up'"
                self.await_count(count, min(self.hosts, first + HOSTS_IN_A_PROCESS))

    # --------------------------------------------------------------------- waiting

    def await_count(self, query: str, wanted: int) -> None:
        """Wait until a query counts as many."""
        self.await_(lambda connection: first(connection, query, ()) == wanted, query)

    def await_row(self, query: str, arguments: tuple[Any, ...]) -> None:
        """Wait until a query finds something."""
        self.await_(lambda connection: first(connection, query, arguments) is not None, query)

    def await_(self, reached: Callable[[psycopg.Connection], bool], what: str) -> None:
        """Wait, with a limit."""
        deadline = time.monotonic() + TIMEOUT_S
        with psycopg.connect(
            Installation.open(self.product.root).dsn(), autocommit=True
        ) as connection:
            while not reached(connection):
                assert time.monotonic() < deadline, f"{what}\n{self.product.last_words()}"
                time.sleep(0.1)


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - private, made anew


def first(connection: psycopg.Connection, query: str, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401
    try:
        row = connection.execute(query.encode(), arguments).fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return row[0] if row else None
