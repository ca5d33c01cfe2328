"""What figures were measured on: the machine, its disk, PostgreSQL as it was set, the revision.

Nothing here may lose the figures: what cannot be found is told as an error in its place.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from benchmarks._postgres import alone
from chronovisor.embedded_postgres import EmbeddedPostgres
from tests.harness.postgres import PostgresServer
from tests.harness.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (
    "shared_buffers",
    "synchronous_commit",
    "fsync",
    "full_page_writes",
    "wal_sync_method",
    "wal_compression",
    "max_wal_size",
    "checkpoint_timeout",
    "max_connections",
)
FLUSHES = 300
FLUSHED_BYTES = 8_192
GIT_TIMEOUT_S = 30.0

Facts = dict[str, object]


def machine() -> Facts:
    """Return what the figures were measured on; measures the disk and asks both PostgreSQLs."""
    memory = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    models = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    }
    return {
        "cpus": os.cpu_count(),
        "cpu": sorted(models),
        "memory_bytes": memory,
        "kernel": os.uname().release,
        "load": list(os.getloadavg()),
        "python": platform.python_version(),
        "revision": _tried(revision),
        "fdatasync": _tried(fdatasync),
        "postgres": _tried(postgres),
    }


def _tried(find: Callable[[], Facts]) -> Facts:
    try:
        return find()
    except Exception as error:  # noqa: BLE001 - a fact that is missing must not lose the figures
        return {"error": f"{type(error).__name__}: {error}"}


def revision() -> Facts:
    """Return the commit, and whether the tree differs from it."""
    changed = _git("status", "--porcelain")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": bool(changed)}


def _git(*arguments: str) -> str:
    ran = subprocess.run(
        ["git", "-C", str(ROOT), *arguments],  # noqa: S607 - the one on the path
        capture_output=True,
        text=True,
        check=True,
        timeout=GIT_TIMEOUT_S,
    )
    return ran.stdout.strip()


def fdatasync() -> Facts:
    """Return what a flush of 8 kB costs where the benchmarks' servers have their data."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(FLUSHES):
            os.pwrite(file.fileno(), os.urandom(FLUSHED_BYTES), 0)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return {
        "bytes": FLUSHED_BYTES,
        "flushes": FLUSHES,
        "p50_ms": statistics.median(times) * 1e3,
        "max_ms": max(times) * 1e3,
        "per_s": len(times) / sum(times),
    }


def postgres() -> Facts:
    """Return version and settings of the tests' PostgreSQL, and of the one that the product runs.

    `append`, `http`, `placement` and the like measure on the first, those that start the product on
    the second.
    """
    workspace = Workspace()
    try:
        server = PostgresServer(workspace)
        server.start()
        tests = settings(server.database().url)
        server.kill()
        folder = workspace.make_folder("product")
        embedded = EmbeddedPostgres(folder / "postgres")
        with alone(workspace, embedded, folder / "postgres.log"):
            product = settings(embedded.dsn)
    finally:
        workspace.close()
    return {"tests": tests, "product": product}


def settings(dsn: str) -> Facts:
    """Return a server's version, and the settings that say what an answer costs."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "select name, current_setting(name) from pg_settings where name = any(%s)",
            (["server_version", *SETTINGS],),
        ).fetchall()
    found = {str(name): str(value) for name, value in rows}
    return {"version": found.pop("server_version"), "settings": dict(sorted(found.items()))}
