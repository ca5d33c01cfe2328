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


class VmMigrationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one VM is moved; what is None is as for its cluster.

    `priority` (1 to 100, the highest goes first) is its place among the migrations that wait, None:
    as for high availability.
    """

    mode: MigrationMode = MigrationMode.AUTOMATIC
    policy: MigrationPolicy | None = None
    down_time_ms: int | None = None
    bandwidth_bytes_per_s: int | None = None
    priority: int | None = None


class ClusterMigrationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a cluster's VMs are moved, unless a VM has it otherwise.

    A host sends at most `outgoing_max` VMs at a time, and takes in at most `incoming_max`.
    """

    policy: MigrationPolicy = MigrationPolicy.MINIMAL_DOWN_TIME
    bandwidth_bytes_per_s: int | None = None
    outgoing_max: int = 2
    incoming_max: int = 2


class Held(enum.StrEnum):
    """How a VM came to be stopped on its host for a migration, and by whom it may be let go."""

    SWITCH_OVER = "switch_over"  # nothing is lost: it may go on once the destination has nothing
    POST_COPY = "post_copy"  # a part of its memory is at each host: it goes on if they meet again
    POST_COPY_LOST = "post_copy_lost"  # the other part is gone: it can never go on


class CopyProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the copying of a VM's memory is. A round is one pass over what changed in the pass
    before; `down_time_ms` is what is allowed at the switch-over by now, `throttle_percent` how much
    the VM's CPUs are slowed down. In post-copy the VM runs at the destination already; `suspended`
    says that its policy stopped it until all is copied.
    """

    total_bytes: int = 0
    remaining_bytes: int = 0
    copied_bytes: int = 0
    copied_bytes_per_s: int = 0
    dirty_bytes_per_s: int = 0
    rounds: int = 0
    throttle_percent: int = 0
    down_time_ms: int = 0
    post_copy: bool = False
    suspended: bool = False

    @property
    def steps(self) -> tuple[int, bool, bool]:
        """What the policy has come to: a change of it is news."""
        return self.down_time_ms, self.post_copy, self.suspended


def tuning_of(vm: VmMigrationSettings, cluster: ClusterMigrationSettings) -> Tuning:
    """Return how a VM of a cluster is to be sent."""
    limits = [
        limit
        for limit in (vm.bandwidth_bytes_per_s, cluster.bandwidth_bytes_per_s)
        if limit is not None
    ]
    return Tuning(
        policy=vm.policy or cluster.policy,
        down_time_ms=vm.down_time_ms,
        bandwidth_bytes_per_s=min(limits, default=None),
    )
