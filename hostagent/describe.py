"""What the agent says of each incarnation: the report's items, as a pure function of what is known.

Every incarnation that the intent names is always described, and so is every managed domain: what a
full state does not list is not on the host.
"""

from __future__ import annotations

from collections.abc import Mapping

from events.types.migration import Held
from events.wire.agent import IntentVm, Role, VmState, VmStateItem
from hostagent.driver import Domain, Guest
from hostagent.records import Remembered, Run, RunKey

_NOTHING_SEEN = Guest()


def describe_all(
    intent: Mapping[RunKey, IntentVm],
    domains: Mapping[RunKey, Domain],
    remembered: Remembered,
    guests: Mapping[RunKey, Guest],
) -> dict[RunKey, VmStateItem]:
    """Return what is known of every incarnation that is ordered or there."""
    return {
        key: describe(
            key, intent.get(key), domains.get(key), remembered.runs.get(key), guests.get(key)
        )
        for key in sorted({*intent, *domains})
    }


def describe(
    key: RunKey,
    item: IntentVm | None,
    domain: Domain | None,
    run: Run | None,
    guest: Guest | None,
) -> VmStateItem:
    """Return what is known of one incarnation."""
    awaited = item is not None and item.role is Role.INCOMING
    if run is not None and awaited and not _came_by(run, item):
        run = None  # It was here before, and comes again: what was is over.
    if domain is None and run is not None and run.tombstone is not None:
        return VmStateItem(
            vm=key.vm,
            incarnation=key.incarnation,
            state=VmState.ABSENT,
            restored=run.restored,
            reason=run.tombstone.reason,
            detail=run.tombstone.detail,
            resets=run.resets,
        )
    if domain is None:
        # Not there, but nobody made certain yet that it is over: as the engine knows it.
        coming = item is not None and item.receiving is not None
        ran = (run is not None and run.done is not None) or (
            item is not None and item.started and not coming
        )
        state = VmState.RUNNING if ran else VmState.STARTING
    elif domain.fetching or (run is not None and run.begun is not None and run.done is None):
        state = VmState.STARTING
    else:
        state = VmState.PAUSED if domain.paused else VmState.RUNNING
    seen = guest or _NOTHING_SEEN
    return VmStateItem(
        vm=key.vm,
        incarnation=key.incarnation,
        state=state,
        guest_up=run is not None and run.up and state is not VmState.STARTING,
        restored=run is not None and run.restored,
        pause_reason=domain.pause_reason if domain is not None and domain.paused else None,
        resets=0 if run is None else run.resets,
        hostname=seen.hostname,
        addresses=seen.addresses,
        operating_system=seen.operating_system,
        held=_broke_off(item, domain),
    )


def _broke_off(item: IntentVm | None, domain: Domain | None) -> Held | None:
    """Return how a VM is held here without all its memory; None if it is not.

    Of one that leaves by order, its job tells. Of one that no order is about (the engine may have
    forgotten it, by a restore) all is told.
    """
    if domain is None or (item is not None and item.role is Role.OUTGOING):
        return None
    return domain.held if item is None or domain.held is Held.POST_COPY else None


def _came_by(run: Run, item: IntentVm | None) -> bool:
    """Tell whether what is remembered of a run is about the migration that is ordered now."""
    if item is None or item.receiving is None:
        return True
    return run.arrival == item.receiving.migration
