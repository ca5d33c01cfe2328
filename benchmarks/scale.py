"""Simulated hosts and VMs by the thousand: what each step costs, and whether that grows linearly.

    python -m benchmarks.scale [--vms 1000 10000]        (BENCH=full: 1,000, 10,000 and 100,000)

Real are: `chronovisor up` with its PostgreSQL (engine, policies, projector, dwh, notifier, each its
process), every VM's creation and start by HTTPS over 128 connections, and the agents: each host has
its own certificate, TLS connections, session, journal and folder, many in a process. Simulated are
the hypervisors; hosts are enrolled by appending the events of joining, ten VMs fit on each. Agents
and load run on the same processors as what is measured; the hosts' folders lie in memory, since
thousands of hosts do not share one disk either. An agent has up to two connections, and a process
may have 20,000 files here: from 8,000 hosts on, a second engine takes half of them.

All run for `--steady` seconds (20, full: 180), with a sample of each host and VM a minute, or as
often as that is long if it is less than a minute.

`--found FILE` keeps what was found of each size, and shows it beside what is measured next, so that
sizes which take long need not be measured in one go.

The time of one size per VM is compared with that of the size before: above 1, it grows faster than
linearly.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import signal
import ssl
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psycopg
import uvloop

from benchmarks._processes import memory_bytes, part_pids
from benchmarks._report import compare
from benchmarks._requests import Connection, Sent, storm
from benchmarks._site import TELEMETRY_INTERVAL_S, Site
from chronovisor.installation import Installation
from tests.harness.workspace import Workspace

VM_MEMORY_BYTES = 48 * 1024**3  # ten fit on a simulated host of 512 GiB
CONNECTIONS = 128
WAVE_VMS = 10_000
"""So many starts lie with the hosts at once; a site does not start all that it has in a minute."""
PROBES = 8
READS = 30
GIB = 1024**3
CREATE = "create all VMs over 128 connections"
START = "start VMs, 10,000 at a time, until each is up"
STARTED = "VMs started"
UP = frozenset({"up"})
RUNNING = frozenset({"powering_up"}) | UP
PARTS = ("engine", "policies", "projector", "dwh", "notifier")
"""What follows the log at any site; where there is a Kafka, so does the relay."""
LATER_TOLERANCE = 1.25
"""Twice the same work differs by so much on two shared processors."""


class Scale(Site):
    """The steps that are measured; at most `running` of the VMs are started."""

    parts: tuple[str, ...] = PARTS

    def __init__(
        self,
        workspace: Workspace,
        vms: int,
        running: int | None = None,
        *,
        telemetry_interval_s: float = TELEMETRY_INTERVAL_S,
        settings: str = "",
    ) -> None:
        super().__init__(
            workspace, vms, telemetry_interval_s=telemetry_interval_s, settings=settings
        )
        self.running = vms if running is None else min(vms, running)

    def create_and_start(self) -> None:
        """Create all VMs, then start them all."""
        cluster = self.product.cluster()
        creations = [
            (
                "POST",
                "/v1/vms",
                b'{"name":"vm-%d","cluster":"%s","memory_bytes":%d}'
                % (number, cluster.encode(), VM_MEMORY_BYTES),
            )
            for number in range(self.vms)
        ]
        with self.phase(CREATE):
            answers = self.send(creations)
        ids = [str(answer.json["id"]) for answer in answers]
        assert all(answer.status in {201, 202} for answer in answers), answers[0]
        starts = [("POST", f"/v1/vms/{vm}/start", b"{}") for vm in ids[: self.running]]
        accepting_s = 0.0
        with self.phase(START):
            for first in range(0, len(starts), WAVE_VMS):
                began = time.monotonic()
                self.send(starts[first : first + WAVE_VMS])
                accepting_s += time.monotonic() - began
                up = min(len(starts), first + WAVE_VMS)
                self.await_count("select count(*) from inventory.vms where status = 'up'", up)
                print(
                    f"           {up:,} are up after {time.monotonic() - began:.1f} s", flush=True
                )
        self.note("of which until each start was accepted", accepting_s)

    def send(self, requests: list[tuple[str, str, bytes]]) -> list[Sent]:
        """Send requests over 128 connections."""
        context = ssl.create_default_context(
            cafile=str(self.product.folder.authority / "trust.crt")
        )
        token = self.product.folder.admin_token.read_text().strip()
        url = self.product.url

        async def work() -> list[Sent]:
            connections = [Connection(url, context, token) for _ in range(CONNECTIONS)]
            try:
                return await storm(connections, requests)
            finally:
                for connection in connections:
                    await connection.close()

        return uvloop.run(work())

    def steady(self, seconds: float) -> None:
        """Let everything run, and look at what it takes."""
        before, began = self.processor_s(), time.monotonic()
        sent = self.samples()
        time.sleep(seconds)
        passed = time.monotonic() - began
        after = self.processor_s()
        for name in (*self.parts, "postgres", "agents"):
            self.note(
                f"steady: {name}, of one processor", (after[name] - before[name]) / passed, ""
            )
        arrived = self.samples() - sent
        expected = (self.running + self.hosts) * passed / self.telemetry_interval_s
        self.note("steady: samples stored, of those due", arrived / expected, "")

    def samples(self) -> int:
        """Return how many samples the warehouse holds."""
        found = self.product.history(
            "select (select count(*) from vm_samples) + (select count(*) from host_samples)"
        )
        return int(found[0][0])

    def probe(self) -> None:
        """Start and look at single VMs while all run."""
        cluster = self.product.cluster()
        started: list[float] = []
        up: list[float] = []
        for number in range(PROBES):
            body = {"name": f"probe-{number}", "cluster": cluster, "memory_bytes": 1 << 30}
            vm = self.product.post("/v1/vms", body)["id"]
            began = time.perf_counter()
            self.product.post(f"/v1/vms/{vm}/start")
            for reached, times in ((RUNNING, started), (UP, up)):
                while self.status(vm) not in reached:
                    time.sleep(0.002)
                times.append(time.perf_counter() - began)
        self.note("one start, from the request to running, p50", statistics.median(started))
        self.note("one start, from the request to up, p50", statistics.median(up))
        for what, path in (
            ("GET one VM, p50", f"/v1/vms/{vm}"),
            ("GET a page of 100 VMs, p50", "/v1/vms?limit=100"),
            ("GET the VMs that a search finds, p50", "/v1/vms?search=probe-1&limit=100"),
            ("GET the VMs of two letters that all have, p50", "/v1/vms?search=vm&limit=100"),
            ("GET the VM of a name, p50", "/v1/vms?name=vm-77"),
            ("GET the VMs that are down, p50", "/v1/vms?status=down&limit=100"),
        ):
            self.note(what, self.read_s(path))
        # Others than before each time: what was asked for before, and has not changed, is kept.
        searched = itertools.count()
        self.note(
            "GET the VMs that another search finds, p50",
            self.read_s(lambda: f"/v1/vms?search=vm-{next(searched)}&limit=100"),
        )

    def status(self, vm: str) -> str:
        """Return a VM's status in the inventory, empty while that does not know it yet."""
        response = self.product.http.get(f"/v1/vms/{vm}")
        return str(response.json()["status"]) if response.is_success else ""

    def read_s(self, path: str | Callable[[], str], count: int = READS) -> float:
        """Return the median time of a GET; of a path, or of one after the other."""
        times = []
        for _ in range(count):
            asked = path if isinstance(path, str) else path()
            began = time.perf_counter()
            response = self.product.http.get(asked)
            assert response.is_success, response.text
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def weigh(self) -> None:
        """Note each process's memory."""
        pids = part_pids(self.product.root)
        del pids["supervisor"]
        weights: dict[str, float] = {name: memory_bytes(pid) for name, pid in pids.items()}
        if self._second is not None:
            weights["engine"] = (weights["engine"] + memory_bytes(self._second.pid)) / 2
        for name, weight in weights.items():
            self.note(f"memory of {name}", weight / GIB, "GiB")
        self.note("memory of all but the agents", sum(weights.values()) / GIB, "GiB")
        agents = sum(memory_bytes(fleet.pid) for fleet in self.fleets if fleet.pid)
        self.note("memory of the agents", agents / GIB, "GiB")

    def restart_each(self) -> None:
        """Kill each process; note how long until it is back and knows the whole log."""
        head = int(self.product.get("/v1/health")["head"])
        self.note("events in the log", head, "")
        for part in self.parts:
            began = time.monotonic()
            before = self.product.kill(part)
            self.await_row(
                "select pid from health.parts where part = %s and pid <> %s and position >= %s"
                " and state = 'up'",
                (part, before, head),
            )
            self.note(f"{part}: from kill -9 to all known again", time.monotonic() - began)

    def rebuild(self) -> None:
        """Throw the inventory away, kill the projector, and wait until all is there again."""
        head = int(self.product.get("/v1/health")["head"])
        with self.phase("the inventory is built anew"):
            pid = self.product.pid("projector")
            os.kill(pid, signal.SIGSTOP)
            with psycopg.connect(Installation.open(self.product.root).dsn()) as connection:
                connection.execute("drop schema inventory cascade")
            os.kill(pid, signal.SIGKILL)
            self.await_row(
                "select pid from health.parts where part = %s and pid <> %s and position >= %s"
                " and state = 'up'",
                ("projector", pid, head),
            )


def measure(vms: int, running: int | None, steady_s: float) -> dict[str, float]:
    """Return the figures of a size."""
    workspace = Workspace()
    try:
        # At least one sample of each is due while it is looked at, however short that is.
        interval_s = min(TELEMETRY_INTERVAL_S, steady_s)
        site = Scale(workspace, vms, running, telemetry_interval_s=interval_s)
        try:
            site.open()
            site.add_hosts()
            site.create_and_start()
            site.steady(steady_s)
            site.probe()
            site.weigh()
            site.end_second()
            site.restart_each()
            site.rebuild()
        finally:
            site.close()
    finally:
        workspace.close()
    site.found[STARTED] = site.running
    return site.found


GROWING = (
    "enrol the hosts (events appended, keys made)",
    CREATE,
    START,
    f"{CREATE}, processors",
    f"{START}, processors",
    "the inventory is built anew",
    "memory of all but the agents",
    "steady: engine, of one processor",
    "steady: dwh, of one processor",
)
"""What may grow with the number of VMs; all else should stay as it is."""
STAYING = (
    "one start, from the request to running, p50",
    "GET one VM, p50",
    "GET a page of 100 VMs, p50",
    "GET the VM of a name, p50",
)


def show(sizes: dict[int, dict[str, float]]) -> None:
    """Print the sizes beside each other, and report how the costs grew."""
    print("\n" + f"{'':<60}" + "".join(f"{vms:>12,}" for vms in sizes))
    first = next(iter(sizes.values()))
    for what in first:
        figures = "".join(f"{found.get(what, math.nan):>12,.4g}" for found in sizes.values())
        print(f"{what:<60}{figures}")
    print()
    pairs = list(sizes.items())
    for vms, found in pairs:
        for what, count in ((CREATE, vms), (START, found[STARTED])):
            compare(12, f"{vms:,} VMs: {what}", found[what] * 1e3, count, "ms/VM")
        arrived = found["steady: samples stored, of those due"]
        compare(12, f"{vms:,} VMs: samples stored of those due", arrived, 1.0, "", limit=0.95)
    for (fewer, small), (more, large) in itertools.pairwise(pairs):
        for what in (*GROWING, *STAYING):
            factor = more / fewer if what in GROWING else 1.0
            if what.startswith(START):
                factor = large[STARTED] / small[STARTED]
            compare(
                12,
                f"{more:,} against {fewer:,}: {what}"[:58],
                large[what],
                small[what] * factor,
                "",
                limit=LATER_TOLERANCE if what in GROWING else None,
                at_most=True,
            )


def main() -> None:
    """Measure the sizes one after the other."""
    full = os.environ.get("BENCH") == "full"
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__)
    parser.add_argument(
        "--vms", type=int, nargs="+", default=[1_000, 10_000, 100_000] if full else [1_000]
    )
    parser.add_argument("--steady", type=float, default=180.0 if full else 20.0, help="seconds")
    parser.add_argument("--run", type=int, default=None, help="how many VMs to start (all)")
    parser.add_argument("--found", type=Path, default=None, help="keeps what was found")
    asked = parser.parse_args()
    sizes: dict[int, dict[str, float]] = {}
    if asked.found is not None and asked.found.exists():
        sizes = msgspec.json.decode(asked.found.read_bytes(), type=dict[int, dict[str, float]])
    for vms in asked.vms:
        sizes[vms] = measure(vms, asked.run, asked.steady)
        if asked.found is not None:
            asked.found.write_bytes(msgspec.json.encode(sizes))
    show(dict(sorted(sizes.items())))


if __name__ == "__main__":
    main()
