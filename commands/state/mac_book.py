"""Which MAC addresses NICs have, as a process that follows the log knows it.

It only makes good guesses possible of what is free: the claims in the log settle who has what.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter

from commands.state.vm import VmState, VmStatus
from events.types.mac_pool import number
from events.types.run_spec import Nic

PENDING_MAX = 64
"""So many new addresses are put in their places one by one; more are sorted in at once."""


class MacBook:
    """The addresses of all NICs, by how many have each."""

    def __init__(self) -> None:
        self._held: Counter[int] = Counter()
        self._sorted: list[int] = []
        self._new: list[int] = []

    def __contains__(self, address: int) -> bool:
        """Tell whether a NIC has an address."""
        return address in self._held

    def count(self, first: int, last: int) -> int:
        """Return how many of the addresses from `first` to `last` NICs have."""
        self._sort()
        return bisect_right(self._sorted, last) - bisect_left(self._sorted, first)

    def take(self, before: VmState | None, after: VmState | None) -> None:
        """Take in what became of a VM."""
        had, has = _nics(before), _nics(after)
        if had is has or had == has:
            return
        for nic in has:
            self._add(number(nic.mac))
        for nic in had:
            self._remove(number(nic.mac))

    def _add(self, address: int) -> None:
        self._held[address] += 1
        if self._held[address] == 1:
            self._new.append(address)

    def _remove(self, address: int) -> None:
        self._held[address] -= 1
        if self._held[address] > 0:
            return
        del self._held[address]
        self._sort()
        self._sorted.pop(bisect_left(self._sorted, address))

    def _sort(self) -> None:
        if len(self._new) > PENDING_MAX:
            self._sorted = sorted((*self._sorted, *self._new))
        else:
            for address in self._new:
                insort(self._sorted, address)
        self._new.clear()


def _nics(vm: VmState | None) -> tuple[Nic, ...]:
    if vm is None or vm.status is VmStatus.REMOVED:
        return ()
    return vm.configuration.nics
