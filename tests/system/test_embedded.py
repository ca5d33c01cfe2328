"""The product on its embedded default, with simulated hosts, over HTTP as users ask it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from chronovisor.installation import Installation
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.product import PROJECT, Json, Product

pytestmark = pytest.mark.timeout(240)
GIB = 1024**3
QUICK = "time_scale = 0.2\n"


@pytest.fixture(scope="module")
def product(workspace: Workspace) -> Iterator[Product]:
    """A product with two simulated hosts."""
    product = Product(workspace, "embedded", QUICK, hosts=2)
    product.start()
    try:
        yield product
    finally:
        assert product.stop() == 0


def create(product: Product, name: str, **more: object) -> str:
    """Create a VM; return its id once it is complete."""
    answer = product.post("/v1/vms", {"name": name, "cluster": product.cluster(), **more})
    if "operation" in answer:
        assert product.finish(answer)["status"] == "succeeded"
    return str(answer["id"])


def act(product: Product, vm: str, verb: str, body: Json | None = None) -> Json:
    """Do something with a VM and wait for the end of its operation."""
    return product.finish(product.post(f"/v1/vms/{vm}/{verb}", body))


def test_a_vm_lives_through_every_verb(product: Product) -> None:
    vm = create(
        product,
        "life01",
        disks=[{"size_bytes": GIB}],
        nics=[{"bridge": "br0"}],
        memory_bytes=GIB,
    )
    for verb, status in (
        ("start", "up"),
        ("reboot", "up"),
        ("suspend", "suspended"),
        ("resume", "up"),
        ("shutdown", "down"),
        ("start", "up"),
        ("stop", "down"),
    ):
        operation = act(product, vm, verb)
        assert operation["status"] == "succeeded", (verb, operation)
        product.await_status(f"/v1/vms/{vm}", status)
    response = product.http.delete(f"/v1/vms/{vm}")
    assert response.status_code == httpx.codes.ACCEPTED
    assert product.finish(response.json())["status"] == "succeeded"
    wait_until(
        lambda: product.http.get(f"/v1/vms/{vm}").status_code == httpx.codes.NOT_FOUND,
        what="the VM to be gone",
    )


def test_an_idempotency_key_makes_one_vm_of_two_requests(product: Product) -> None:
    body = {"name": "once01", "cluster": product.cluster()}
    headers = {"Idempotency-Key": "make-once01"}
    first = product.http.post("/v1/vms", json=body, headers=headers)
    second = product.http.post("/v1/vms", json=body, headers=headers)
    assert first.status_code == second.status_code == httpx.codes.CREATED
    assert first.json() == second.json()
    other = product.http.post("/v1/vms", json=body | {"name": "once02"}, headers=headers)
    assert other.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert other.headers["content-type"] == "application/problem+json"


def test_an_edit_of_what_has_changed_meanwhile_is_refused(product: Product) -> None:
    vm = create(product, "edit01")
    change = {"description": "mine"}
    first = product.http.patch(f"/v1/vms/{vm}", json=change, headers={"If-Match": '"1"'})
    assert first.is_success, first.text
    second = product.http.patch(
        f"/v1/vms/{vm}", json={"description": "yours"}, headers={"If-Match": '"1"'}
    )
    assert second.status_code == httpx.codes.PRECONDITION_FAILED
    wait_until(
        lambda: product.http.get(f"/v1/vms/{vm}").json().get("description") == "mine",
        what="the edit to be seen",
    )


def test_what_a_vm_was_can_be_asked_for_any_time(product: Product) -> None:
    vm = create(product, "past01")
    time.sleep(0.05)
    before = product.http.get(f"/v1/vms/{vm}").json()["updated_at"]
    product.http.patch(f"/v1/vms/{vm}", json={"name": "past02"}).raise_for_status()
    wait_until(
        lambda: product.get(f"/v1/vms/{vm}")["name"] == "past02", what="the new name to be seen"
    )
    assert product.get(f"/v1/vms/{vm}", at=before)["name"] == "past01"


def test_maintenance_waits_for_the_hosts_vms(product: Product) -> None:
    vm = create(product, "stay01", migration={"mode": "none"})
    act(product, vm, "start")
    host = product.await_status(f"/v1/vms/{vm}", "up")["host"]["id"]
    asked = {"reason": "new memory", "vms_that_stay": "wait"}
    maintenance = product.post(f"/v1/hosts/{host}/maintenance", asked)
    product.await_status(f"/v1/hosts/{host}", "preparing_for_maintenance")
    act(product, vm, "shutdown")
    assert product.finish(maintenance)["status"] == "succeeded"
    product.await_status(f"/v1/hosts/{host}", "maintenance")
    product.post(f"/v1/hosts/{host}/activate")
    product.await_status(f"/v1/hosts/{host}", "up")


def test_a_start_that_cannot_be_says_why_not_for_every_host(product: Product) -> None:
    vm = create(product, "huge01", memory_bytes=3 * 1024 * GIB)
    operation = act(product, vm, "start")
    assert operation["status"] == "failed"
    for host in ("host-01", "host-02"):
        assert host in operation["reason"]


def test_a_second_start_finds_everything_again(workspace: Workspace) -> None:
    product = Product(workspace, "again", QUICK)
    product.start()
    try:
        vm = create(product, "kept01")
        act(product, vm, "start")
        assert product.stop() == 0
        product.start()
        found = product.await_status(f"/v1/vms/{vm}", "up")
        assert found["incarnation"] == 1
        assert act(product, vm, "stop")["status"] == "succeeded"
    finally:
        product.stop()


def up_fails(root: str, *arguments: str) -> str:
    """Run `up` where it cannot; return what it says."""
    ended = subprocess.run(
        [sys.executable, "-m", "chronovisor.cli.main", "up", "--dir", root, *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_up_says_what_is_wrong(product: Product, workspace: Workspace) -> None:
    port = product.url.rpartition(":")[2]
    other = workspace.make_folder("other")
    assert port in up_fails(str(other), "--port", port)
    assert "already" in up_fails(str(product.root), "--port", "0").lower()
    (other / "chronovisor.toml").write_text("[api]\nprot = 1\n")
    assert "prot" in up_fails(str(other))


@contextlib.contextmanager
def held_build(installation: Installation) -> Iterator[None]:
    """Keep the next build of an inventory from going on, as soon as the database is there."""
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        while not done.is_set():
            with contextlib.suppress(psycopg.OperationalError):
                with psycopg.connect(installation.dsn()) as connection:
                    connection.execute("create schema inventory_next")
                    begun.set()
                    done.wait()
                    connection.rollback()
                return
            time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        try:
            yield
            assert begun.is_set()
        finally:
            done.set()
            holding.result()


def test_it_is_up_however_long_the_inventory_takes_to_be_built(workspace: Workspace) -> None:
    """given a release with other views, when the log is long, then the rest works meanwhile"""
    product = Product(workspace, "rebuilt", QUICK, hosts=1)
    product.start()
    installation = Installation.open(product.root)
    try:
        vm = create(product, "kept01")
        with psycopg.connect(installation.dsn()) as connection:
            connection.execute("update inventory.cursor set schema_hash = 'of older views'")
        assert product.stop() == 0
        with held_build(installation):
            product.start()
            parts = {part["part"]: part for part in product.get("/v1/health")["parts"]}
            assert parts["projector"]["state"] == "building"
            assert "is being built: event 0 of" in parts["projector"]["detail"]
            assert product.post("/v1/vms", {"name": "new01", "cluster": product.cluster()})["id"]
        wait_until(lambda: product.get("/v1/health")["ok"], what="the inventory to be built")
        assert {"kept01", "new01"} <= {one["name"] for one in product.items("/v1/vms")}
        assert product.get(f"/v1/vms/{vm}")["name"] == "kept01"
    finally:
        product.stop()
