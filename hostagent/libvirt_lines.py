"""Connections to libvirt for calls, each used by one thread at a time.

libvirt says that threads may share a connection. But in its client library, as Debian 12 has it
(9.0; CVE-2024-4418), a thread that calls while another one waits for its answer wakes that one up,
which then leaves a watch of the socket behind that points into its stack. Where its call ends
without an answer, because a libvirtd that stood still was given up, the watch stays, and the next
thread that waits runs into it once libvirtd goes on: the process dies of it. Who calls alone is
never woken so.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from hostagent.driver import DriverError
from hostagent.libvirt_port import Connection, LostConnectionError

IDLE_MAX = 8
"""So many connections are kept for the next calls; there are as many as calls at a time."""

T = TypeVar("T")


class Lines:
    """All may be called from any thread, and block, but for `renew`."""

    def __init__(
        self, connect: Callable[[], Connection], disconnect: Callable[[Connection], None]
    ) -> None:
        self._connect = connect
        self._disconnect = disconnect
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._old: list[Connection] = []
        self._age = 0
        self._closed = False

    def call(self, function: Callable[[Connection], T]) -> T:
        """Call a function with a connection that nobody else uses meanwhile.

        Raises LostConnectionError, after which that connection is not used again.
        """
        age, connection = self._take()
        lost = False
        try:
            return function(connection)
        except LostConnectionError:
            lost = True
            raise
        finally:
            self._give_back(age, connection, lost=lost)

    def renew(self) -> None:
        """Use no connection again that was opened before: libvirtd may be another one."""
        with self._lock:
            self._age += 1
            self._old += self._idle
            self._idle.clear()

    def close(self) -> None:
        """Close what is idle, and the others once their calls are over; it blocks."""
        self._closed = True
        self.renew()
        self._close_old()

    def _take(self) -> tuple[int, Connection]:
        self._close_old()
        with self._lock:
            age = self._age
            if self._idle:
                return age, self._idle.pop()
        try:
            return age, self._connect()
        except DriverError as error:
            raise LostConnectionError(str(error)) from error  # nothing was asked

    def _give_back(self, age: int, connection: Connection, *, lost: bool) -> None:
        with self._lock:
            current = age == self._age and not lost and not self._closed
            if current and len(self._idle) < IDLE_MAX:
                self._idle.append(connection)
                return
        self._drop(connection)

    def _close_old(self) -> None:
        while True:
            with self._lock:
                if not self._old:
                    return
                connection: Any = self._old.pop()
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        with contextlib.suppress(Exception):  # it is of no more use, whatever it says
            self._disconnect(connection)
