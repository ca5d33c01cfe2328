"""A PostgreSQL that lives and refuses connections: nothing is lost, and all goes on by itself."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.chaos_checks import check_all
from tests.system.chaos_faults import (
    ACCEPT_CONNECTIONS,
    CUT_CONNECTIONS,
    LIMIT_CONNECTIONS,
    REFUSE_CONNECTIONS,
    tell_postgres,
)
from tests.system.product import Product, running

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
FOLLOWERS = ("engine", "policies", "projector", "dwh", "notifier")
REFUSED_S = 6.0
ANSWER_S_MAX = 25.0
"""A command waits for the log for 15 s, and is then told to come again."""


@pytest.fixture
def product(workspace: Workspace) -> Iterator[Product]:
    yield from running(workspace, "refused", "time_scale = 0.2\n")


def test_all_connections_cut_and_none_accepted(product: Product) -> None:
    """Commands are turned away as those are to be tried again, and count once in the end."""
    cluster = product.cluster()
    key = str(uuid.uuid4())
    command = {"name": "asked-meanwhile", "cluster": cluster}
    tell_postgres(product, REFUSE_CONNECTIONS)
    try:
        tell_postgres(product, CUT_CONNECTIONS)
        ends_at = time.monotonic() + REFUSED_S
        while time.monotonic() < ends_at:
            began = time.monotonic()
            answer = product.http.post("/v1/vms", json=command, headers={"Idempotency-Key": key})
            assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
            assert "retry-after" in answer.headers
            assert time.monotonic() - began < ANSWER_S_MAX
            time.sleep(0.2)
    finally:
        tell_postgres(product, ACCEPT_CONNECTIONS)
    assert product.insist("POST", "/v1/vms", command, key).is_success
    goes_on(product)
    truth = check_all(product, followers=FOLLOWERS)
    made = [one for one in truth.events if one.name == "vm.created"]
    assert sum(one.event.name == "asked-meanwhile" for one in made) == 1  # type: ignore[attr-defined]


def test_no_new_connection_while_every_process_needs_some(product: Product) -> None:
    """Those that there are go on; who was killed meanwhile waits until it finds the database."""
    tell_postgres(product, LIMIT_CONNECTIONS)
    try:
        for part in ("policies", "projector", "dwh", "notifier"):
            product.kill(part)
        time.sleep(REFUSED_S)
    finally:
        tell_postgres(product, ACCEPT_CONNECTIONS)
    goes_on(product)
    check_all(product, followers=FOLLOWERS)


def goes_on(product: Product) -> None:
    """See that every part is well, and that a VM can be made and started."""
    wait_until(
        lambda: (
            product.http.get("/v1/health").status_code == httpx.codes.OK
            and product.get("/v1/health")["ok"] is True
        ),
        60,
        "every part to be well",
        tolerate=(httpx.TransportError, AssertionError),  # its engine may be started again
        detail=product.last_words,
    )
    made = {"name": f"after-{uuid.uuid4().hex[:8]}", "cluster": product.cluster()}
    vm = product.post("/v1/vms", made)["id"]
    product.post(f"/v1/vms/{vm}/start")
    product.await_status(f"/v1/vms/{vm}", "up", timeout_s=60)
