"""How long an agent waits for what: every limit and interval of its own, in seconds."""

from __future__ import annotations

import msgspec


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Time-outs and intervals; those that the engine sets come with its Welcome."""

    start_timeout_s: float = 300.0
    destroy_timeout_s: float = 120.0
    call_timeout_s: float = 60.0
    save_timeout_s: float = 1_800.0
    disk_timeout_s: float = 6 * 3_600.0
    boot_timeout_s: float = 120.0
    shutdown_timeout_s: float = 300.0
    button_interval_s: float = 10.0
    guest_poll_s: float = 3.0
    guest_refresh_s: float = 30.0
    unknown_retry_s: float = 5.0
    retry_min_s: float = 1.0
    retry_max_s: float = 30.0
    request_timeout_s: float = 15.0
    poll_pause_s: float = 0.2
    session_settled_s: float = 60.0
    held_told_s: float = 3.0
    renew_interval_s: float = 3_600.0
    renew_retry_min_s: float = 30.0
    fence_poll_s: float = 5.0
    witness_timeout_s: float = 3.0
    memory_interval_s: float = 10.0
    cpu_interval_s: float = 1.0

    def scaled(self, time_scale: float) -> Timings:
        """Return all of them multiplied by `time_scale`.

        What bounds the work of machines keeps a least value: they do not get faster.
        """
        return Timings(
            **{
                name: max(_LEAST_S.get(name, 0.0), getattr(self, name) * time_scale)
                for name in self.__struct_fields__
            }
        )


_LEAST_S = {
    "start_timeout_s": 20.0,
    "destroy_timeout_s": 10.0,
    "save_timeout_s": 20.0,
    "call_timeout_s": 4.0,
    "request_timeout_s": 3.0,
    "poll_pause_s": 0.05,
    "held_told_s": 0.5,
    "renew_interval_s": 60.0,
    "renew_retry_min_s": 1.0,
    "fence_poll_s": 0.5,
    "witness_timeout_s": 1.0,
    "memory_interval_s": 0.5,
    "cpu_interval_s": 0.2,
}
