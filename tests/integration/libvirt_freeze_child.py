"""Threads that ask libvirt all the time, as the driver's do; a test freezes its libvirtd.

Each line says how many answers there were since the last one. With a second argument all use one
connection, which ends the process sooner or later where libvirt's library is not sound.
"""

from __future__ import annotations

import sys
import threading
import time

from hostagent.driver import DriverError
from hostagent.libvirt_driver import Libvirt
from hostagent.libvirt_lines import Lines
from hostagent.libvirt_port import Connection, LostConnectionError

ASKERS = 12
TELL_S = 0.2
PAUSE_S = 0.005


class Shared:
    """One connection for all, opened anew by whoever finds that it was lost."""

    def __init__(self, hypervisor: Libvirt) -> None:
        self._hypervisor = hypervisor
        self._lock = threading.Lock()
        self._connection: Connection = None

    def ask(self) -> None:
        """Ask once."""
        with self._lock:
            if self._connection is None:
                self._connection = self._hypervisor.connect_for_calls()
            connection = self._connection
        try:
            self._hypervisor.statistics(connection)
        except LostConnectionError:
            with self._lock:
                if self._connection is connection:
                    self._connection = None
            raise


def main(uri: str, *, shared: bool) -> None:
    """Ask until killed."""
    hypervisor = Libvirt(uri, 1, 1)
    lines, one = Lines(hypervisor.connect_for_calls, hypervisor.disconnect), Shared(hypervisor)
    answers = [0] * ASKERS

    def ask(number: int) -> None:
        while True:
            try:
                if shared:
                    one.ask()
                else:
                    lines.call(hypervisor.statistics)
                answers[number] += 1
            except DriverError:
                time.sleep(PAUSE_S)

    for number in range(ASKERS):
        threading.Thread(target=ask, args=(number,), daemon=True).start()
    told = 0
    while True:
        time.sleep(TELL_S)
        told, before = sum(answers), told
        sys.stdout.write(f"answers {told - before}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], shared=len(sys.argv) > 2)
