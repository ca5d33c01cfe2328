"""What a host does where its memory runs short: pure, after oVirt's MoM (ksm.rules, balloon.rules).

Both begin where less than a fifth of the memory is free. Balloons change by a twentieth at a turn,
so that a guest has the time to give up what it caches.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from events.types.host_memory import MemoryPolicy
from hostagent.memory_files import HostMemory, KsmState
from hostagent.records import RunKey

PRESSURE_FREE = 0.20
"""Below this part of free memory the host is short of it (MoM: pressure_threshold)."""
STEP = 0.05
"""A balloon changes by at most this part of the guest's memory at a turn (MoM:
max_balloon_change_percent)."""
STEP_MIN = 0.0025
"""Smaller changes are not made (MoM: min_balloon_change_percent)."""
GUEST_FREE = 0.201
"""A guest keeps this part of its memory free (MoM: min_guest_free_percent)."""
PAGES_MIN, PAGES_MAX, PAGES_MORE, PAGES_LESS = 64, 1_250, 300, 50
"""How many pages KSM looks at before it sleeps: within which bounds, and by how much this rises
under pressure and falls without it (MoM: ksm_pages_min, _max, _boost, _decay)."""
SLEEP_MS = 10
SLEEP_MEMORY_BYTES = 16 << 30
"""KSM sleeps for 10 ms at a time where the host has 16 GiB or more, for longer where it has less
(MoM: ksm_sleep_ms_baseline).
"""


class Balloon(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's memory: as defined, as guaranteed, as its balloon leaves it now; and how much of
    that the guest could still give out, None if it does not say.
    """

    key: RunKey
    defined_bytes: int
    guaranteed_bytes: int
    current_bytes: int
    usable_bytes: int | None


class KsmWrite(msgspec.Struct, frozen=True):
    """A file of KSM's, and what is to be written into it."""

    name: str
    value: int


def is_short(memory: HostMemory) -> bool:
    """Tell whether a host is short of memory."""
    return memory.free_bytes < _threshold(memory)


def _threshold(memory: HostMemory) -> int:
    """Return how much memory is to be free."""
    return round(memory.total_bytes * PRESSURE_FREE)


def balloon_targets(
    memory: HostMemory, balloons: Iterable[Balloon], *, enabled: bool
) -> dict[RunKey, int]:
    """Return the balloons that are to change, and to how much memory they leave their guests.

    Without pressure guests get memory back, the one that lacks the most of it first, as far as that
    makes no new pressure. Where ballooning is off they get it back whatever there is.
    """
    if enabled and is_short(memory):
        wanted = {each.key: (each, _smaller(each)) for each in balloons}
        return {key: to for key, (each, to) in wanted.items() if _is_worth_it(each, to)}
    room = memory.free_bytes - _threshold(memory)
    targets: dict[RunKey, int] = {}
    for each in sorted(balloons, key=_lack, reverse=True):
        if not enabled:
            to = each.defined_bytes
        else:
            to = min(each.defined_bytes, each.current_bytes + _step(each))
            if to - each.current_bytes > room:
                continue
            room -= to - each.current_bytes
        if to > each.current_bytes and (to == each.defined_bytes or _is_worth_it(each, to)):
            targets[each.key] = to
    return targets


def ksm_writes(
    policy: MemoryPolicy, state: KsmState, memory: HostMemory, guests_bytes: int
) -> tuple[KsmWrite, ...]:
    """Return what is to be written, in this order; nothing where all is as it should be.

    `guests_bytes` is what VMs have in all. Without the policy KSM is stopped, and pages that were
    merged stay so: to take them apart at once could need more memory than there is.
    """
    if not policy.ksm:
        return (KsmWrite("run", 0),) if state.run == 1 else ()
    writes: list[KsmWrite] = []
    run = state.run
    if state.merge_across_nodes != policy.merge_across_nodes:
        if state.pages_shared or run == 1:
            writes.append(KsmWrite("run", 2))  # the kernel changes it only while nothing is merged
            run = 2
        writes.append(KsmWrite("merge_across_nodes", int(policy.merge_across_nodes)))
    if guests_bytes + _threshold(memory) <= memory.total_bytes:
        return (*writes, KsmWrite("run", 0)) if run == 1 else tuple(writes)
    pages = state.pages_to_scan + (PAGES_MORE if is_short(memory) else -PAGES_LESS)
    pages = min(max(pages, PAGES_MIN), PAGES_MAX)
    sleep_ms = max(SLEEP_MS, SLEEP_MS * SLEEP_MEMORY_BYTES // max(memory.total_bytes, 1))
    if pages != state.pages_to_scan:
        writes.append(KsmWrite("pages_to_scan", pages))
    if sleep_ms != state.sleep_ms:
        writes.append(KsmWrite("sleep_millisecs", sleep_ms))
    if run != 1:
        writes.append(KsmWrite("run", 1))
    return tuple(writes)


def _step(each: Balloon) -> int:
    return round(each.current_bytes * STEP)


def _smaller(each: Balloon) -> int:
    """Return what a guest is left with under pressure: never less than it is guaranteed, and what
    it uses with some room; a guest that says nothing of that is left alone.
    """
    if each.usable_bytes is None:
        return each.current_bytes
    used = max(0, each.current_bytes - each.usable_bytes)
    least = max(each.guaranteed_bytes, used + round(each.current_bytes * GUEST_FREE))
    return max(each.current_bytes - _step(each), min(least, each.current_bytes))


def _is_worth_it(each: Balloon, to: int) -> bool:
    return abs(to - each.current_bytes) >= max(1, each.current_bytes * STEP_MIN)


def _lack(each: Balloon) -> float:
    return 1.0 - each.current_bytes / max(each.defined_bytes, 1)
