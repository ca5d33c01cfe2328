"""What admins say of how VMs are moved while they run."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.state.availability_input import Priority
from events.types.migration import MigrationMode, MigrationPolicy, VmMigrationSettings

_MIB = 1024 * 1024
DownTime = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=2_000_000,
        description="The longest that the VM may stand still at the switch-over, in milliseconds.",
    ),
]
Bandwidth = Annotated[
    int,
    msgspec.Meta(
        ge=_MIB,
        le=2**40,
        description="The most that copying one VM's memory may take, in bytes per second; whole"
        " MiB count.",
    ),
]
PerHost = Annotated[
    int,
    msgspec.Meta(ge=1, le=10, description="How many migrations of a host may go on at a time."),
]


class MigrationInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may have the VM moved while it runs, and how that is done; what is left out is as for its
    cluster.
    """

    mode: MigrationMode = MigrationMode.AUTOMATIC
    policy: MigrationPolicy | None = None
    down_time_ms: DownTime | None = None
    bandwidth_bytes_per_s: Bandwidth | None = None
    priority: Priority | None = None

    def settings(self) -> VmMigrationSettings:
        """Return it as the VM's settings."""
        return VmMigrationSettings(
            mode=self.mode,
            policy=self.policy,
            down_time_ms=self.down_time_ms,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s,
            priority=self.priority,
        )
