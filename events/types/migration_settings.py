"""Events of how VMs are to be moved while they run: on the streams of VMs and clusters.

These settings count at once, for migrations that begin from then on.
"""

from __future__ import annotations

from typing import ClassVar

from events.types.base import Audit, Event, event
from events.types.migration import ClusterMigrationSettings, VmMigrationSettings


@event("vm.migration_set")
class VmMigrationSet(Event, frozen=True, kw_only=True):
    """From now on the VM is moved like this."""

    name: str
    migration: VmMigrationSettings

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_300,
            name="VM_MIGRATION_SETTINGS",
            message="How VM {name} is migrated was set by {actor}: mode {migration.mode}.",
        ),
    )


@event("cluster.migration_set")
class ClusterMigrationSet(Event, frozen=True, kw_only=True):
    """From now on the cluster's VMs are moved like this."""

    name: str
    migration: ClusterMigrationSettings

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_301,
            name="CLUSTER_MIGRATION_SETTINGS",
            message="How VMs of cluster {name} are migrated was set by {actor}:"
            " policy {migration.policy}.",
        ),
    )
