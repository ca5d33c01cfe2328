"""A stream of commands, as impatient clients send it: each under its key until it is answered."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass

import httpx

from tests.system.product import Json, Product

CYCLE = ("start", "reboot", "stop")


@dataclass(frozen=True)
class Sent:
    """A command that was answered."""

    key: str
    vm: str
    verb: str
    status: int
    answer: Json


class Commander(threading.Thread):
    """Runs VMs through their verbs, one command after the other, until it is told to stop."""

    def __init__(
        self,
        product: Product,
        vms: list[str],
        *,
        pause_s: float = 0.1,
        prefix: str = "chaos",
        answer_timeout_s: float = 60.0,
    ) -> None:
        super().__init__(name="commander", daemon=True)
        self.sent: list[Sent] = []
        self.error: BaseException | None = None
        self._product = product
        self._verbs = {vm: itertools.cycle(CYCLE) for vm in vms}
        self._open: dict[str, str] = {}
        self._pause_s = pause_s
        self._prefix = prefix
        self._answer_timeout_s = answer_timeout_s
        self._stopped = threading.Event()
        self._numbers = itertools.count(1)

    def run(self) -> None:
        """Send until `finish` is called."""
        try:
            while not self._stopped.is_set():
                for vm in self._verbs:
                    if not self._stopped.wait(self._pause_s) and not self._is_busy(vm):
                        self._send(vm)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.error = error

    def finish(self, timeout_s: float = 90) -> list[Sent]:
        """Stop sending; return all that was answered."""
        self._stopped.set()
        self.join(timeout_s)
        assert not self.is_alive(), "a command was never answered"
        assert self.error is None, self.error
        return self.sent

    def _is_busy(self, vm: str) -> bool:
        operation = self._open.get(vm)
        if operation is None:
            return False
        try:
            answer = self._product.http.get(f"/v1/operations/{operation}", timeout=5)
        except httpx.TransportError:
            return True
        status = answer.json().get("status") if answer.is_success else None
        return status not in {"succeeded", "failed", "cancelled"}

    def _send(self, vm: str) -> None:
        verb, key = next(self._verbs[vm]), f"{self._prefix}-{next(self._numbers)}"
        path = f"/v1/vms/{vm}/{verb}"
        response = self._product.insist("POST", path, {}, key, self._answer_timeout_s)
        answer = response.json()
        self.sent.append(Sent(key, vm, verb, response.status_code, answer))
        if response.status_code == httpx.codes.ACCEPTED:
            self._open[vm] = answer["operation"]["id"]
