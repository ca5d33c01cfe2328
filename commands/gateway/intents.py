"""What a VM's incarnations are to be on a host: the parts of the host's intent."""

from __future__ import annotations

from commands.state.vm import Migration, VmState
from events.types.vm import DownReason
from events.wire.agent import IntentVm, Receiving, Role


def intent_vms(
    vm: VmState, host: str, restored: int = 0, *, in_doubt: bool = False
) -> list[IntentVm]:
    """Return what a VM's incarnations are to be on a host: its run, and copies to destroy.

    A run that was ordered before the log was restored (up to position `restored`) may have been and
    ended since: it goes on if it is there, and is never started. With `in_doubt` nothing is asked
    about it yet.
    """
    items = [
        IntentVm(
            vm=vm.id,
            incarnation=incarnation,
            role=Role.ABSENT,
            position=0,
            started=True,
            reason=DownReason.ADMIN,
        )
        for where, incarnation in vm.stale_copies
        if where == host
    ]
    run, migration = vm.run, vm.migration
    incoming = migration is not None and not migration.departed and not migration.dropped
    if migration is not None and incoming and migration.destination == host and not in_doubt:
        items.append(_incoming(vm, migration))
    if run is None or run.host != host or in_doubt:
        return items
    lost = migration is not None and migration.lost and not (run.stopping or run.withdrawn)
    ending = run.stopping or run.withdrawn or lost
    reason = DownReason.ADMIN if run.stopping else DownReason.WITHDRAWN
    reason = DownReason.CRASHED if lost else reason
    items.append(
        IntentVm(
            vm=vm.id,
            incarnation=run.incarnation,
            role=Role.ABSENT if ending else _role(migration),
            position=run.position,
            started=run.started or run.position <= restored,
            spec=None if ending else run.spec,
            reason=reason if ending else None,
            receiving=_receiving(migration) if migration and migration.departed else None,
            only_half=lost,
        )
    )
    return items


def _role(migration: Migration | None) -> Role:
    leaving = migration is not None and not (migration.departed or migration.failed)
    return Role.OUTGOING if leaving else Role.RUN


def _incoming(vm: VmState, migration: Migration) -> IntentVm:
    """Return what the destination is to do until the source has let go."""
    over = migration.failed or vm.run is None
    return IntentVm(
        vm=vm.id,
        incarnation=vm.incarnation,
        role=Role.ABSENT if over else Role.INCOMING,
        position=migration.position,
        started=over,  # whatever there is of it is destroyed
        spec=None if vm.run is None or over else migration.there(vm.run.spec),
        reason=DownReason.WITHDRAWN if over else None,
        receiving=None if over else _receiving(migration),
    )


def _receiving(migration: Migration) -> Receiving:
    return Receiving(migration=migration.id, source=migration.source)
