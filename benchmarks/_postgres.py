"""The product's embedded PostgreSQL without the rest of the product."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chronovisor.embedded_postgres import EmbeddedPostgres
from tests.harness.workspace import Workspace

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 300.0


@contextmanager
def alone(workspace: Workspace, postgres: EmbeddedPostgres, log: Path) -> Iterator[None]:
    """Run it, with the settings that it has in the product, for the length of the block."""
    postgres.prepare()
    process = postgres.start(log)
    workspace.note_process(process.pid)
    try:
        postgres.wait_ready(READY_TIMEOUT_S)
        yield
    finally:
        process.send_signal(signal.SIGINT)  # it ends without waiting for whoever is connected
        process.wait(STOP_TIMEOUT_S)
