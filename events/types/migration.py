"""How running VMs are moved: what a cluster and a VM may ask for. Names and numbers as in oVirt."""

from __future__ import annotations

import enum

import msgspec


class MigrationMode(enum.StrEnum):
    """Who may have a VM moved while it runs."""

    AUTOMATIC = "automatic"  # people, and the scheduler by itself
    MANUAL = "manual"  # people only
    NONE = "none"  # nobody


class MigrationPolicy(enum.StrEnum):
    """What is done where a VM writes to its memory faster than that can be copied."""

    MINIMAL_DOWN_TIME = "minimal_down_time"  # let it stand still a little longer, then give up
    POST_COPY = "post_copy"  # let it go on at the destination, and fetch what is missing
    SUSPEND_WORKLOAD = "suspend_workload"  # let it stand still for as long as it takes


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """How one VM is to be sent.

    `down_time_ms` is the longest that the VM may stand still at the switch-over, None: as the
    policy has it. `bandwidth_bytes_per_s` is the most that copying may take, None: no limit.
    """

    policy: MigrationPolicy = MigrationPolicy.MINIMAL_DOWN_TIME
    down_time_ms: int | None = None
    bandwidth_bytes_per_s: int | None = None
