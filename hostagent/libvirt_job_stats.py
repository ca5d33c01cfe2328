"""What libvirt counts of a migration, as this product counts it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hostagent.convergence import Copying

PAGE_BYTES = 4_096


def read_copying(figures: Mapping[str, Any], *, post_copy: bool, stopped: bool = False) -> Copying:
    """Return what virDomainGetJobStats says; names as in libvirt's VIR_DOMAIN_JOB_* fields."""
    page_bytes = int(figures.get("memory_page_size", 0)) or PAGE_BYTES
    total = int(figures.get("memory_total", 0))
    return Copying(
        total_bytes=total,
        remaining_bytes=int(figures.get("memory_remaining", total)),
        copied_bytes=int(figures.get("memory_processed", 0)),
        copied_bytes_per_s=int(figures.get("memory_bps", 0)),
        dirty_bytes_per_s=int(figures.get("memory_dirty_rate", 0)) * page_bytes,
        round_number=int(figures.get("memory_iteration", 0)),
        throttle_percent=int(figures.get("auto_converge_throttle", 0)),
        post_copy=post_copy,
        stopped=stopped,
    )
