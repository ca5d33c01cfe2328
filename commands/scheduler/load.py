"""A host's CPU load: measured where it is, and else reckoned from the VMs that it has.

Agents measure how busy a host's CPUs are, and engines store what that comes to in each minute
(`commands.gateway.loads`). No measurement is an event: where none came lately, each virtual CPU is
reckoned to take 10 % of a CPU (oVirt's VcpuConsumptionPercentage). So is each that came since the
newest reading began, whose load no reading shows yet (oVirt's pending CPU load): VMs that start at
once do not all go to the host that was idle a minute ago. What left the host since takes its part
of the measured load with it.

All is in whole numbers, so that a move that is tried and taken back leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

VCPU_CONSUMPTION_PERCENT = 10
"""What a virtual CPU is reckoned to take of a CPU: oVirt's VcpuConsumptionPercentage."""
READINGS_KEPT = 15
"""So many readings of a host are kept: longer than that, no filter looks back."""
FRESH_MINUTES = 3
"""A newest reading that is older counts as none."""
_AHEAD_MINUTES = 1
"""An engine's clock may be so much ahead of the one that looks."""
_PERMILLE_OF_VCPU = 10 * VCPU_CONSUMPTION_PERCENT
PERMILLE = 1_000


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a host's CPUs were in each minute, in thousandths of all of them, newest first.

    `minute` is the number of the newest one, counted since 1970. None: nothing was measured in it.
    """

    minute: int
    permille: tuple[int | None, ...]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What the scheduler keeps of a host's readings.

    `busy` is the newest one in thousandths of one CPU. `sustained` has at n the least of the newest
    n + 1 readings, in thousandths of all CPUs, as far back as there is one for each minute.
    `processors_then` are the virtual CPUs that count as measured: those that were there when the
    reading before it came. `processors_now` were there when it came itself.
    """

    minute: int
    busy: int
    sustained: tuple[int, ...]
    processors_then: int
    processors_now: int

    @property
    def newest(self) -> int:
        """The newest reading, in thousandths of all CPUs."""
        return self.sustained[0]

    def least(self, minutes: int) -> int:
        """Return the least of the readings of the last minutes; 0 where one is missing.

        Of more minutes than readings are kept, those that are kept.
        """
        count = min(minutes, READINGS_KEPT)
        return self.sustained[count - 1] if 0 < count <= len(self.sustained) else 0


def read(
    readings: Readings | None, before: Load | None, processors: int, cpus: int, minute: int
) -> Load | None:
    """Return a host's load after a look at its readings at a minute; None where it has none.

    `processors` are the virtual CPUs of its VMs now, `cpus` what it has itself.
    """
    if readings is None or not cpus:
        return None
    if not -_AHEAD_MINUTES <= minute - readings.minute <= FRESH_MINUTES:
        return None
    if before is not None and before.minute == readings.minute:
        return before
    sustained = _sustained(readings.permille)
    if not sustained:
        return None
    return Load(
        minute=readings.minute,
        busy=sustained[0] * cpus,
        sustained=sustained,
        processors_then=before.processors_now if before is not None else processors,
        processors_now=processors,
    )


def _sustained(permille: Sequence[int | None]) -> tuple[int, ...]:
    found: list[int] = []
    for each in permille[:READINGS_KEPT]:
        if each is None:
            break
        found.append(min(each, found[-1]) if found else each)
    return tuple(found)


def measured(load: Load | None, processors: int) -> int:
    """Return what VMs with so many virtual CPUs were measured to take, in thousandths of a CPU."""
    if load is None:
        return 0
    if processors < load.processors_then:
        return load.busy * processors // load.processors_then
    return load.busy


def pending(load: Load | None, processors: int) -> int:
    """Return how many of a host's virtual CPUs no reading shows."""
    return processors if load is None else max(0, processors - load.processors_then)


def permille(load: Load | None, processors: int, cpus: int, counted: int) -> int:
    """Return the load in thousandths of the host's CPUs.

    It has `cpus`, and counts as having `counted`: its cores, where threads do not count.
    """
    if not cpus or not counted:
        return 0
    own, others = measured(load, processors), pending(load, processors)
    return max(0, own * counted + others * _PERMILLE_OF_VCPU * cpus) // (cpus * counted)


def part(load: Load | None, processors: int, of: int) -> int:
    """Return what some of a host's `of` virtual CPUs take, each as much: thousandths of a CPU."""
    whole = measured(load, of) + pending(load, of) * _PERMILLE_OF_VCPU
    return max(0, whole) * processors // max(1, of)


def shifted(load: Load | None, of: int, processors: int, busy: int) -> Load | None:
    """Return a load after virtual CPUs that take this much were added to `of` (or, below 0, left).

    They count as measured. Nothing is added where nothing is measured.
    """
    if load is None:
        return None
    return msgspec.structs.replace(
        load,
        busy=measured(load, of) + busy,
        processors_then=min(load.processors_then, of) + processors,
    )
