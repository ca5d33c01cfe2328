"""The load under chaos: VMs that come and go, with names, addresses and disks that are claimed."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field

import httpx

from tests.harness.processes import wait_until
from tests.system.product import Json, Product

ANSWER_TIMEOUT_S = 180.0
NAMES = 4
MIB = 1024**2


@dataclass
class Sent:
    """What was accepted: each key with the number of events that it made, where that is known."""

    keys: dict[str, int | None] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Comings(threading.Thread):
    """Creates VMs under few names, changes them and removes them, so that names are contended."""

    def __init__(self, product: Product, name: str, cluster: str, dice: random.Random) -> None:
        super().__init__(name=name, daemon=True)
        self.sent = Sent()
        self.error: BaseException | None = None
        self._product = product
        self._cluster = cluster
        self._dice = dice
        self._number = 0
        self._stopped = threading.Event()

    def run(self) -> None:
        """Send until `finish` is called."""
        try:
            while not self._stopped.wait(0.2):
                self._one_life()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.error = error

    def finish(self, timeout_s: float = 300) -> Sent:
        """Stop sending, once the VM at hand is gone; return what was accepted."""
        self._stopped.set()
        self.join(timeout_s)
        assert not self.is_alive(), f"{self.name}: a command was never answered"
        assert self.error is None, self.error
        return self.sent

    def _one_life(self) -> None:
        name = f"come{self._dice.randrange(NAMES)}"
        body: Json = {
            "name": name,
            "cluster": self._cluster,
            "nics": [{"bridge": "br0"}],
            "disks": [{"size_bytes": 16 * MIB}] if self._dice.random() < 0.5 else [],
        }
        created = self._send("POST", "/v1/vms", body)
        if created is None:
            return
        vm = f"/v1/vms/{created['id']}"
        self._await_operation(created)
        self._send("PATCH", vm, {"description": f"by {self.name}"})
        if self._dice.random() < 0.5:
            self._await_operation(self._send("POST", f"{vm}/start", {}))
            self._await_operation(self._send("POST", f"{vm}/stop", {}))
        self._await_operation(self._send("DELETE", vm, None))

    def _send(self, method: str, path: str, body: Json | None) -> Json | None:
        self._number += 1
        key = f"{self.name}-{self._number}"
        response = self._product.insist(method, path, body, key, ANSWER_TIMEOUT_S)
        if not response.is_success:
            assert response.status_code < httpx.codes.INTERNAL_SERVER_ERROR, response.text
            self.sent.refused.append(f"{method} {path}: {response.text}")
            return None
        self.sent.keys[key] = None
        answer: Json = response.json()
        if "operation" in answer:
            self.sent.operations.append(answer["operation"]["id"])
        return answer

    def _await_operation(self, answer: Json | None) -> None:
        if answer is not None and "operation" in answer:
            path = f"/v1/operations/{answer['operation']['id']}"
            wait_until(
                lambda: self._ended(path), ANSWER_TIMEOUT_S, f"the end of {path}", interval_s=0.2
            )

    def _ended(self, path: str) -> bool:
        try:
            answer = self._product.http.get(path, timeout=5)
        except httpx.TransportError:
            return False
        ended = {"succeeded", "failed", "cancelled"}
        return answer.is_success and answer.json()["status"] in ended
