"""What follows from what is heard of a VM that moves between two hosts.

Whatever ends the run on the source, the VM's place is the destination from then on: there it goes
on, or it is said to be over. So neither order of the two reports can lose a copy or make a second.
"""

from __future__ import annotations

from commands.state.orders import withdraw_run_jobs
from commands.state.vm import Migration, Run, VmState, VmStatus
from events.envelope import NewEvent
from events.types import vm as e_vm
from events.types import vm_migration as e
from events.types.base import Event
from events.types.migration import Held
from events.types.vm import DownReason, PauseReason
from events.wire.agent import JobItem, VmStateItem
from events.wire.agent import VmState as Reported

BROKE_OFF = "Its memory is not all there: post-copy broke off."
HALVES = frozenset({Held.POST_COPY, Held.POST_COPY_LOST})
"""How a VM is held of which no host has all."""
LOST = "The VM left its host and did not come to run on the one that it was migrated to."


def moving(state: VmState, host: str, incarnation: int) -> Migration | None:
    """Return the migration by which an incarnation may be on a host that is not its place."""
    migration = state.migration
    if migration is None or migration.dropped or migration.destination != host:
        return None
    return migration if state.incarnation == incarnation and not migration.departed else None


def is_from_before(state: VmState, host: str, item: VmStateItem, applied: int) -> bool:
    """Tell whether a destination's word that it has nothing is older than its order to take the VM
    in: it may be about an earlier migration, of the same run to the same host, and proves nothing.
    """
    migration = state.migration
    if migration is None or item.state is not Reported.ABSENT or migration.destination != host:
        return False
    return item.incarnation == state.incarnation and applied < migration.position


def at_destination(state: VmState, migration: Migration, item: VmStateItem) -> Event | None:
    """Return what follows from what the destination says while the source has not let go."""
    if item.state is Reported.ABSENT:
        return e.VmMigrationDropped(
            name=state.name, incarnation=item.incarnation, destination=migration.destination
        )
    if item.held is Held.POST_COPY:
        return half_held(state, migration, migration.destination, migration.destination_name)
    if item.state is Reported.RUNNING and not migration.arrived and not migration.failed:
        return e.VmMigrationArrived(
            name=state.name, incarnation=item.incarnation, destination=migration.destination
        )
    return None


def half_held(
    state: VmState, migration: Migration, host: str, host_name: str
) -> e.VmMigrationHeld | None:
    """Return what follows from a host's word that what it has of the VM is not whole."""
    if migration.held is not None:
        return None
    return e.VmMigrationHeld(
        name=state.name,
        incarnation=state.incarnation,
        host=host,
        host_name=host_name,
        reason=BROKE_OFF,
        held=Held.POST_COPY,
    )


def half_alone(state: VmState, run: Run) -> tuple[NewEvent, ...]:
    """Return what follows where the run's host has half of it, and no migration goes on by which
    the other half could come: the run is over, and is not taken for one that is up until then.
    """
    lost = e.VmMigrationLost(
        name=state.name,
        incarnation=run.incarnation,
        host=run.host,
        host_name=run.host_name,
        lost_host_name="",
        reason=DownReason.CRASHED,
        detail=f"Only half of the VM's memory was on host {run.host_name}, and nothing is known of"
        " a migration by which it could go on: it broke off in post-copy, in what a restored log"
        " has lost.",
    )
    stream = f"vm/{state.id}"
    ordered = NewEvent(stream, lost, run.host)
    if state.status in {VmStatus.PAUSED, VmStatus.MIGRATING}:
        return (ordered,)
    paused = e_vm.VmPaused(name=state.name, incarnation=run.incarnation, reason=PauseReason.OTHER)
    return (NewEvent(stream, paused), ordered)


def runs_on_at_source(state: VmState, migration: Migration, run: Run) -> e.VmMigrationFailed | None:
    """Return what follows where, after a restore, the source of a migration that was held says
    that it runs the whole VM: that migration is over, whatever the log has lost of it.
    """
    if migration.departed or migration.arrived or not (migration.held or migration.lost):
        return None
    return e.VmMigrationFailed(
        name=state.name,
        incarnation=run.incarnation,
        host_name=run.host_name,
        destination="" if migration.dropped else migration.destination,
        reason="It came to its end in what the restored log has lost.",
    )


def departs(state: VmState) -> bool:
    """Tell whether the end of the run on its host is a departure to another one."""
    migration = state.migration
    if migration is None or state.run is None:
        return False
    return not (migration.departed or migration.failed or migration.dropped)


def departure(state: VmState, reason: DownReason, detail: str) -> tuple[NewEvent, ...]:
    """Return what follows from the source's having nothing of the VM any more."""
    run, migration = state.run, state.migration
    assert run is not None  # noqa: S101 - the caller has asked `departs`
    assert migration is not None  # noqa: S101
    stream = f"vm/{state.id}"
    departed = e.VmMigrationDeparted(
        name=state.name,
        incarnation=run.incarnation,
        host=run.host,
        destination=migration.destination,
        destination_name=migration.destination_name,
        reason=reason,
        detail=detail,
    )
    events = [NewEvent(stream, departed, migration.destination)]
    if migration.arrived and not is_half(migration, reason):
        events.append(NewEvent(stream, landed(state, migration)))
    return tuple(events)


def is_half(migration: Migration, reason: DownReason) -> bool:
    """Tell whether the destination has only a part of the VM's memory, now that its source ended.

    A source that says "migrated" has sent all of it, whatever was said before.
    """
    return migration.held in HALVES and reason is not DownReason.MIGRATED


def called_off(state: VmState) -> tuple[NewEvent, ...]:
    """Return what tells the destination that the VM is not coming: it was saved at its source.

    That was asked for before the migration was, in what a restored log has lost.
    """
    migration = state.migration
    if not departs(state) or migration is None or state.run is None:
        return ()
    recalled = e.VmMigrationRecalled(
        name=state.name,
        incarnation=state.run.incarnation,
        host_name=state.run.host_name,
        destination=migration.destination,
    )
    return (NewEvent(f"vm/{state.id}", recalled, migration.destination),)


def landed(state: VmState, migration: Migration) -> e.VmMigrated:
    """Return the event that the move is complete."""
    follows = state.disks_host is not None and state.disks_host != migration.destination
    return e.VmMigrated(
        name=state.name,
        incarnation=state.incarnation,
        host=migration.destination,
        host_name=migration.destination_name,
        disks_from=state.disks_host or "" if follows else "",
    )


def held(state: VmState, item: JobItem) -> Event | None:
    """Return what follows from the source's word that its hypervisor stopped the VM, or that it
    goes on in post-copy though it was stopped.
    """
    migration, run = state.migration, state.run
    if migration is None or run is None or migration.held is item.held:
        return None
    if migration.held is Held.POST_COPY_LOST and item.held is not None:
        return None  # what is gone does not come back
    if item.held is None:
        goes_on = item.copying is not None and item.copying.post_copy
        if not goes_on or migration.held is Held.SWITCH_OVER:
            return None
        return mended(state, run.host_name)
    return e.VmMigrationHeld(
        name=state.name,
        incarnation=run.incarnation,
        host=run.host,
        host_name=run.host_name,
        reason=item.reason,
        held=item.held,
    )


def mended(state: VmState, source_name: str) -> e.VmMigrationMended:
    """Return the event that post-copy goes on, or went on, though it had broken off."""
    assert state.migration is not None  # noqa: S101 - the caller has looked
    return e.VmMigrationMended(
        name=state.name,
        incarnation=state.incarnation,
        host_name=source_name,
        destination_name=state.migration.destination_name,
    )


def why_ended(state: VmState, reason: DownReason, detail: str) -> tuple[DownReason, str]:
    """Return why a run is over: where it ended on its way, the source may know better."""
    migration = state.migration
    if migration is not None and migration.lost and reason is DownReason.CRASHED:
        return migration.reason, migration.detail
    if migration is not None and migration.departed and reason is DownReason.CRASHED:
        if migration.reason is DownReason.MIGRATED:
            return DownReason.CRASHED, f"{LOST} {detail}".strip()
        return migration.reason, migration.detail
    if reason is DownReason.MIGRATED:
        return DownReason.CRASHED, LOST
    return reason, detail


def lost_with_host(state: VmState, host: str) -> tuple[NewEvent, ...]:
    """Return what follows for a migration from the proof that one of its hosts is off.

    Of the source, the VM goes on at the destination if it had come that far; else it is dropped.
    """
    migration = state.migration
    if migration is None:
        return ()
    if moving(state, host, state.incarnation) is not None:
        dropped = e.VmMigrationDropped(
            name=state.name, incarnation=state.incarnation, destination=host
        )
        return (NewEvent(f"vm/{state.id}", dropped),)
    if departs(state) and state.run is not None and state.run.host == host:
        left = departure(state, DownReason.HOST_LOST, "The host was proved to be off.")
        return (*withdraw_run_jobs(state), *left)
    return ()
