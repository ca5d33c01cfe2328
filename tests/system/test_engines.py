"""Several engines and policies on one database: rolling restarts, failovers, zombies.

A switch stands for the load balancer in front of the engines: agents and clients know its address
alone. One engine and one policies process are `up`'s own, the others are started by the test.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from tests.harness.processes import (
    accepts_connections,
    free_port,
    send_signal,
    start_process,
    wait_until,
)
from tests.harness.workspace import Workspace
from tests.system.chaos_checks import Truth, check_all, check_keys
from tests.system.product import PROJECT, Json, Product
from tests.system.switch import Switch

pytestmark = pytest.mark.timeout(300)
FRONT, FIRST, SECOND = "127.0.0.1", "127.0.0.2", "127.0.0.3"
SETTINGS = f"""
time_scale = 0.1
[api]
host = "{FIRST}"
names = ["{FRONT}", "{FIRST}", "{SECOND}"]
[gateway]
host = "{FIRST}"
port = %d
address = "{FRONT}"
"""
FOLLOWERS = ("engine", "policies", "projector", "dwh", "notifier")
FAILOVER_MAX_S = 10.0
ROUNDS = 3
CLIENTS = 3


class Second:
    """A further process of the installation, beside those of `up`."""

    def __init__(
        self, product: Product, workspace: Workspace, part: str, port: int, host: str = SECOND
    ) -> None:
        self.log = product.root / "log" / f"{part}-2.log"
        self._workspace = workspace
        self._command = [
            *(sys.executable, "-P", "-m", "chronovisor.parts", part),
            *("--dir", str(product.root)),
        ]
        self._environment = {
            "CHRONOVISOR_API__HOST": host,
            "CHRONOVISOR_API__PORT": str(port),
            "CHRONOVISOR_GATEWAY__HOST": host,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._process = start_process(
            self._command, self.log, folder=PROJECT, environment=self._environment
        )
        self._workspace.note_process(self._process.pid)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        try:
            return self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()

    def said(self, words: str) -> int:
        return self.log.read_text().count(words) if self.log.exists() else 0


@dataclass
class Pair:
    """Two of each, behind the switch."""

    product: Product
    switch: Switch
    engine: Second
    policies: Second
    port: int
    gateway_port: int

    def await_engine(self, address: str) -> None:
        for port in (self.port, self.gateway_port):
            wait_until(
                lambda port=port: accepts_connections(port, address),  # type: ignore[misc]
                40,
                f"the engine on {address} to listen",
                detail=self.product.last_words,
            )

    def take_over(self, address: str, *, out: bool) -> None:
        """Take an engine out of the switch, or put it back."""
        for port in (self.port, self.gateway_port):
            (self.switch.take_out if out else self.switch.put_back)((address, port))


@pytest.fixture
def pair(workspace: Workspace) -> Iterator[Pair]:
    port, gateway_port = free_port(), free_port()
    switch = Switch({(FRONT, at): [(FIRST, at), (SECOND, at)] for at in (port, gateway_port)})
    product = Product(workspace, "pair", SETTINGS % gateway_port, hosts=2)
    found = Pair(
        product=product,
        switch=switch,
        engine=Second(product, workspace, "engine", port),
        policies=Second(product, workspace, "policies", port),
        port=port,
        gateway_port=gateway_port,
    )
    switch.start()
    try:
        product.start(port)
        found.engine.start()
        found.policies.start()
        found.await_engine(SECOND)
        yield found
    finally:
        for one in (found.engine, found.policies):
            one.end(signal.SIGKILL)
        product.stop()
        switch.stop()


@dataclass
class Client(threading.Thread):
    """Sends commands under their keys until each is answered; nothing but an outage is repeated."""

    product: Product
    number: int
    cluster: str
    made: dict[str, str] = field(default_factory=dict)
    keys: dict[str, int | None] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    ending: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        super().__init__(name=f"client {self.number}", daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        try:
            while not self.ending.wait(0.02):
                name = f"roll-{self.number}-{len(self.made)}"
                answer = self._send("POST", "/v1/vms", {"name": name, "cluster": self.cluster})
                self.made[name] = answer["id"]
                self._send("PATCH", f"/v1/vms/{answer['id']}", {"description": "seen"})
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.error = error

    def finish(self) -> None:
        self.ending.set()
        self.join(90)
        assert not self.is_alive(), "a command was never answered"
        assert self.error is None, self.error

    def _send(self, method: str, path: str, body: Json) -> Json:
        key = f"client-{self.number}-{len(self.keys)}"
        began = time.monotonic()
        response = self.product.insist(method, path, body, key)
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        if not response.is_success:
            self.refused.append(f"{method} {path}: {response.status_code} {response.text}")
        assert not self.refused, self.refused
        self.keys[key] = None
        answer: Json = response.json()
        return answer


def test_a_rolling_restart_refuses_and_doubles_no_command(pair: Pair) -> None:
    product = pair.product
    clients = [Client(product, number, product.cluster()) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    for _ in range(ROUNDS):
        before = product.pid("engine")
        send_signal(before, signal.SIGTERM)
        _await_another(product, "engine", before)
        pair.await_engine(FIRST)
        assert pair.engine.end() == 0, pair.engine.log.read_text()[-2_000:]
        pair.engine.start()
        pair.await_engine(SECOND)
    send_signal(product.pid("engine"), signal.SIGKILL)
    time.sleep(1)
    for client in clients:
        client.finish()
    truth = check_all(product, followers=FOLLOWERS)
    created = [one for one in truth.events if one.name == "vm.created"]
    by_name = {getattr(one.event, "name", ""): one.object_id for one in created}
    assert len(by_name) == len(created), "a name was created twice"
    for client in clients:
        assert client.made.items() <= by_name.items()
        check_keys(truth, client.keys)
    assert len(created) > 30
    assert all(pair.switch.passed.get((one, pair.port), 0) for one in (FIRST, SECOND))
    for one in created:
        assert product.get(f"/v1/vms/{one.object_id}")["description"] == "seen"


def test_hosts_work_on_through_the_other_engine_while_one_is_frozen(pair: Pair) -> None:
    product = pair.product
    vm = product.post("/v1/vms", {"name": "frozen01", "cluster": product.cluster()})["id"]
    frozen = product.pid("engine")
    os.kill(frozen, signal.SIGSTOP)
    try:
        pair.take_over(FIRST, out=True)
        assert _insist_on_operation(product, f"/v1/vms/{vm}/start", "s1")["status"] == "succeeded"
    finally:
        os.kill(frozen, signal.SIGCONT)
        pair.take_over(FIRST, out=False)
    assert _insist_on_operation(product, f"/v1/vms/{vm}/stop", "s2")["status"] == "succeeded"
    check_all(product, followers=FOLLOWERS)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_standby_takes_the_policies_over_and_a_zombie_writes_nothing(
    pair: Pair, how: signal.Signals
) -> None:
    product = pair.product
    vms = [
        product.post("/v1/vms", {"name": f"over{n}", "cluster": product.cluster()})["id"]
        for n in range(6)
    ]
    wait_until(lambda: _elections(product) == 1, 20, "one leader")
    leader = product.pid("policies")
    for vm in vms[:3]:  # the leader is in the midst of it
        product.post(f"/v1/vms/{vm}/start")
    os.kill(leader, how)
    try:
        operations = [product.post(f"/v1/vms/{vm}/start") for vm in vms[3:]]
        began = time.monotonic()
        for one in operations:
            assert product.finish(one)["status"] == "succeeded"
        failover_s = time.monotonic() - began
        if how is signal.SIGSTOP:
            assert pair.policies.said("policies taken over") == 1
    finally:
        if how is signal.SIGSTOP:
            os.kill(leader, signal.SIGCONT)
    assert failover_s < FAILOVER_MAX_S
    for vm in vms:
        product.await_status(f"/v1/vms/{vm}", "up")
    # The one that was away stands by, and takes over in its turn.
    pair.policies.end(signal.SIGKILL)
    stopped = [product.post(f"/v1/vms/{vm}/stop") for vm in vms]
    for one in stopped:
        assert product.finish(one)["status"] == "succeeded"
    truth = check_all(product, followers=FOLLOWERS)
    check_no_zombie(truth)


def check_no_zombie(truth: Truth) -> None:
    """Whoever was superseded wrote nothing any more: every move names its election."""
    elected = 0
    moves = 0
    for one in truth.stored:
        if one.name == "policy.elected":
            elected = one.version
        elif (found := re.fullmatch(r"policy/operations@(\d+)", one.causation or "")) is not None:
            moves += 1
            assert int(found[1]) == elected, f"a zombie wrote position {one.position}"
    assert elected >= 2
    assert moves > 10


def _elections(product: Product) -> int:
    return sum(one.name == "policy.elected" for one in Truth(product).stored)


def _await_another(product: Product, part: str, before: int) -> None:
    wait_until(
        lambda: product.pid(part) != before,
        40,
        f"a new {part}",
        tolerate=(AssertionError,),
    )


def _insist_on_operation(product: Product, path: str, key: str) -> Json:
    response = product.insist("POST", path, {}, key)
    assert response.status_code == httpx.codes.ACCEPTED, response.text
    return product.finish(response.json())
