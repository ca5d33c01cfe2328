"""Cleaning up behind kafka-python, which leaves the sockets of failed connects to the collector."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Iterator

from tests.harness.processes import wait_until

CLIENT_THREADS = ("kafka-stream", "relay", "telemetry")


def let_go_of_clients() -> Iterator[None]:
    """The body of a module's fixture: lest their warnings fail a test elsewhere."""
    yield
    wait_until(
        lambda: not any(each.name.startswith(CLIENT_THREADS) for each in threading.enumerate()),
        30.0,
        "the Kafka clients to close",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
