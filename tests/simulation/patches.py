"""What the agent takes from the machine that it runs on, taken from the simulation instead.

Its clocks, its dice and its threads. Where the agent reads them by name in several modules, each
of the names is replaced.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import sys
import types
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from commands.gateway import app as gateway_app
from commands.gateway.tls import PEER_CERTIFICATE
from commands.kernel import handler, snapshots
from events import backoff as events_backoff
from hostagent import (  # noqa: F401 - imported so that their clocks can be replaced
    abilities,
    agent,
    backoff,
    guests,
    jobs,
    journal,
    link,
    migrations,
    runs,
    simulated,
    simulated_state,
)

STREAM_SNAPSHOT_EVENTS = 15
"""A stream of which more events had to be read gets a snapshot: of few there are 200."""
EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


_NO_COLLECTOR: dict[str, Callable[[], Any]] = {
    "isenabled": lambda: False,
    "disable": lambda: None,
    "freeze": lambda: None,
}


async def _at_once(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Do in the loop what is done in a thread; others run before and after."""
    await asyncio.sleep(0)
    result = function(*args, **kwargs)
    await asyncio.sleep(0)
    return result


def _peer_host_id(scope: dict[str, Any]) -> str:
    certificate: bytes = scope["extensions"][PEER_CERTIFICATE]
    return certificate.decode().partition(" ")[0]


@contextmanager
def replaced(seed: int, time_s: Callable[[], float]) -> Iterator[None]:
    """Replace clocks, dice and threads while a simulation runs."""
    dice = random.Random(seed + 1)

    def uuid4() -> uuid.UUID:
        return uuid.UUID(int=dice.getrandbits(128), version=4)

    values: dict[str, Any] = {
        "moment": time_s,
        "utc_now": lambda: EPOCH + dt.timedelta(seconds=time_s()),
    }
    patches = [
        mock.patch.object(module, name, value)
        for module in [m for n, m in sorted(sys.modules.items()) if n.startswith("hostagent.")]
        for name, value in values.items()
        if hasattr(module, name)
    ]
    seeded = types.SimpleNamespace(Random=lambda: random.Random(dice.getrandbits(64)))
    patches += [
        mock.patch.object(backoff, "random", seeded),
        mock.patch.object(events_backoff, "random", types.SimpleNamespace(uniform=dice.uniform)),
        mock.patch.object(simulated, "uuid", types.SimpleNamespace(uuid4=uuid4)),
        mock.patch.object(simulated_state, "uuid", types.SimpleNamespace(uuid4=uuid4)),
        mock.patch.object(asyncio, "to_thread", _at_once),
        mock.patch.object(handler, "SNAPSHOT_EVENTS", STREAM_SNAPSHOT_EVENTS),
        # What is frozen is never freed; here one process plays many starts, and many worlds.
        mock.patch.object(snapshots, "gc", types.SimpleNamespace(**_NO_COLLECTOR)),
        mock.patch.object(gateway_app, "peer_host_id", _peer_host_id),
        mock.patch("os.fsync", return_value=None),
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in reversed(patches):
            patch.stop()
