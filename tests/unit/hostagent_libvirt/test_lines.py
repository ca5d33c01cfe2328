"""Connections for calls: no two threads on one, none used again that was lost or is old."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hostagent.driver import DriverError
from hostagent.libvirt_lines import IDLE_MAX, Lines
from hostagent.libvirt_port import LostConnectionError


class Libvirtd:
    """Counts connections, and notices two callers on one."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed: list[int] = []
        self.busy: set[int] = set()
        self.shared = False
        self.lock = threading.Lock()
        self.lines = Lines(self.connect, self.closed.append)

    def connect(self) -> int:
        with self.lock:
            self.opened += 1
            return self.opened

    def ask(self, connection: int) -> int:
        """Be asked something: it takes until somebody else asks as well, or a moment."""
        with self.lock:
            self.shared = self.shared or connection in self.busy
            self.busy.add(connection)
        threading.Event().wait(0.002)
        with self.lock:
            self.busy.discard(connection)
        return connection


@pytest.fixture
def libvirtd() -> Libvirtd:
    return Libvirtd()


def test_no_two_threads_call_over_one_connection(libvirtd: Libvirtd) -> None:
    with ThreadPoolExecutor(IDLE_MAX) as threads:
        list(threads.map(lambda _: libvirtd.lines.call(libvirtd.ask), range(400)))

    assert not libvirtd.shared
    assert 1 < libvirtd.opened <= IDLE_MAX
    assert not libvirtd.closed


def test_one_after_the_other_needs_one_connection(libvirtd: Libvirtd) -> None:
    assert [libvirtd.lines.call(libvirtd.ask) for _ in range(5)] == [1] * 5


def test_more_than_are_kept_are_closed_after_use(libvirtd: Libvirtd) -> None:
    together = threading.Barrier(IDLE_MAX + 3)

    def meet(_connection: int) -> None:
        together.wait(5)

    with ThreadPoolExecutor(IDLE_MAX + 3) as threads:
        list(threads.map(lambda _: libvirtd.lines.call(meet), range(IDLE_MAX + 3)))

    assert len(libvirtd.closed) == 3


def test_a_connection_that_was_lost_is_closed_and_not_used_again(libvirtd: Libvirtd) -> None:
    def lose(_connection: int) -> None:
        raise LostConnectionError("it broke")

    with pytest.raises(LostConnectionError):
        libvirtd.lines.call(lose)

    assert libvirtd.closed == [1]
    assert libvirtd.lines.call(libvirtd.ask) == 2


def test_an_answer_that_is_a_refusal_costs_no_connection(libvirtd: Libvirtd) -> None:
    def refuse(_connection: int) -> None:
        raise DriverError("no")

    with pytest.raises(DriverError):
        libvirtd.lines.call(refuse)

    assert libvirtd.lines.call(libvirtd.ask) == 1


def test_what_was_opened_before_a_loss_is_not_used_after_it(libvirtd: Libvirtd) -> None:
    """given one that is idle and one in use, when all is renewed, then both are closed in time"""
    assert libvirtd.lines.call(libvirtd.ask) == 1

    def renewed_meanwhile(connection: int) -> int:
        libvirtd.lines.renew()
        assert not libvirtd.closed, "nobody waits for that"
        return connection

    assert libvirtd.lines.call(renewed_meanwhile) == 1

    assert libvirtd.closed == [1]
    assert libvirtd.lines.call(libvirtd.ask) == 2
    libvirtd.lines.renew()
    assert libvirtd.lines.call(libvirtd.ask) == 3
    assert libvirtd.closed == [1, 2]


def test_all_are_closed_in_the_end(libvirtd: Libvirtd) -> None:
    def closed_meanwhile(_connection: int) -> None:
        libvirtd.lines.close()

    libvirtd.lines.call(libvirtd.ask)
    libvirtd.lines.call(closed_meanwhile)

    assert libvirtd.closed == [1]


def test_a_connection_that_cannot_be_made_is_as_good_as_lost() -> None:
    def fail() -> int:
        raise DriverError("no such socket")

    with pytest.raises(LostConnectionError):
        Lines(fail, lambda _: None).call(lambda _: None)
