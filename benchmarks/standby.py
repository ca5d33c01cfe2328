"""How long operations stand still until a standby does the policies' work, over their lease.

`python -m benchmarks.standby [--rounds 3]` (BENCH=full: 10), at time scale 1. `chronovisor up` with
one simulated host, and a second policies process beside its own. In each round the one that leads
is killed, and then, the other way round, the one that leads is frozen; at the same instant a VM's
start is ordered. Measured are the time to the election of the other, and to the start's success,
against the time after which a silent one counts as gone (`leadership.LIFE_S`).
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable

import msgspec
import psycopg

from benchmarks._report import compare
from chronovisor.installation import Installation
from chronovisor.leadership import LIFE_S
from tests.harness.processes import start_process, wait_until
from tests.harness.workspace import Workspace
from tests.system.product import PROJECT, Product

PATIENCE_S = 60.0
REST_S = 2.0
_ELECTED = "select count(*) from log.log where name = 'policy.elected'"
_WAITING = """
select count(*) from pg_stat_activity
where pid <> pg_backend_pid() and query like '%pg_locks l join pg_stat_activity a%'
"""
"""Who stands by asks again and again who has the place."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """How long one fail-over took, in seconds."""

    elected_s: float
    started_s: float


class Site:
    """The product, and the second policies process."""

    def __init__(self, workspace: Workspace) -> None:
        self.product = Product(workspace, "standby")
        self._workspace = workspace
        self._vms = 0

    def open(self) -> None:
        """Start it all, `up`'s own policies leading."""
        self.product.start()
        self._dsn = Installation.open(self.product.root).dsn()
        self._cluster = self.product.cluster()
        wait_until(lambda: self.count(_ELECTED) == 1, PATIENCE_S, "one to lead")
        self._second = start_process(
            [
                *(sys.executable, "-P", "-m", "chronovisor.parts", "policies"),
                *("--dir", str(self.product.root)),
            ],
            self.product.root / "log" / "policies-2.log",
            folder=PROJECT,
        )
        self._workspace.note_process(self._second.pid)

    def close(self) -> None:
        """End it all."""
        self._second.kill()
        self._second.wait()
        self.product.stop()

    def count(self, query: str) -> int:
        """Return what a query counts."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])

    def kill(self) -> Taken:
        """Kill `up`'s own, which leads; the second takes over, and `up`'s, started again, waits."""
        before = self.product.pid("policies")
        taken = self._over(lambda: os.kill(before, signal.SIGKILL))
        wait_until(
            lambda: self.product.pid("policies") != before,
            PATIENCE_S,
            "another process",
            tolerate=(AssertionError,),
        )
        return taken

    def freeze(self) -> Taken:
        """Freeze the second, which leads; `up`'s own takes over; the second wakes, and waits."""
        try:
            return self._over(lambda: os.kill(self._second.pid, signal.SIGSTOP))
        finally:
            os.kill(self._second.pid, signal.SIGCONT)

    def _over(self, hurt: Callable[[], None]) -> Taken:
        wait_until(lambda: self.count(_WAITING) == 1, PATIENCE_S, "another to stand by")
        time.sleep(REST_S)
        self._vms += 1
        made = {"name": f"vm-{self._vms}", "cluster": self._cluster}
        vm = self.product.post("/v1/vms", made)["id"]
        before = self.count(_ELECTED)
        began = time.monotonic()
        hurt()
        start = self.product.post(f"/v1/vms/{vm}/start")
        wait_until(
            lambda: self.count(_ELECTED) > before, PATIENCE_S, "the other to lead", interval_s=0.02
        )
        elected_s = time.monotonic() - began
        assert self.product.finish(start)["status"] == "succeeded"
        return Taken(elected_s=elected_s, started_s=time.monotonic() - began)


def show(how: str, taken: list[Taken]) -> None:
    """Report the fail-overs of one kind."""
    for what, times in (
        ("to the election", [one.elected_s for one in taken]),
        ("to a VM's start", [one.started_s for one in taken]),
    ):
        for word, figure in (("median", statistics.median(times)), ("longest", max(times))):
            compare(None, f"policies {how}: {what}, {word} of {len(times)}", figure, LIFE_S, "s")


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="benchmarks.standby", description=__doc__)
    full = os.environ.get("BENCH") == "full"
    parser.add_argument("--rounds", type=int, default=10 if full else 3)
    asked = parser.parse_args()
    workspace = Workspace()
    try:
        site = Site(workspace)
        try:
            site.open()
            killed, frozen = [], []
            for _ in range(asked.rounds):
                killed.append(site.kill())
                frozen.append(site.freeze())
        finally:
            site.close()
    finally:
        workspace.close()
    show("killed", killed)
    show("frozen", frozen)


if __name__ == "__main__":
    main()
