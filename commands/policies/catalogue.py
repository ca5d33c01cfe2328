"""All sagas, by the kind of operation that they move, and all watches, which begin some."""

from __future__ import annotations

from collections.abc import Callable

from commands.policies import (
    affinity_members,
    balancing,
    cluster_balance,
    evacuations,
    fence_watch,
    ha_reservation,
    host_fence,
    host_maintenance,
    host_power,
    host_refresh,
    host_ssh,
    migration_queue,
    power_saving,
    power_test_off,
    restarts,
    vm_create,
    vm_migrate,
    vm_power,
    vm_remove,
    vm_restart,
    vm_start,
)
from commands.policies.saga import Saga, Timeouts
from commands.policies.watch import Watch

SAGAS: dict[str, Saga] = {
    saga.kind: saga
    for saga in (
        vm_create.SAGA,
        vm_start.SAGA,
        *vm_restart.SAGAS,
        *vm_power.SAGAS,
        vm_migrate.SAGA,
        vm_remove.SAGA,
        host_maintenance.SAGA,
        host_refresh.SAGA,
        *host_ssh.SAGAS,
        host_fence.SAGA,
        cluster_balance.SAGA,
        *host_power.SAGAS,
        power_test_off.SAGA,
    )
}

WATCHES: tuple[Callable[[Timeouts], Watch], ...] = (
    restarts.Restarts,
    restarts.Turns,
    fence_watch.Fencing,
    migration_queue.MigrationQueue,
    evacuations.Evacuations,
    affinity_members.Members,
    balancing.Moves,
    balancing.Balancing,
    ha_reservation.Reservation,
    power_saving.PowerSaving,
)
"""What makes each watch, for one takeover of the policies."""
