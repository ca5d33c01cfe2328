"""How fencing is set: the settings' numbers, scaled, and the machine that is never turned off."""

from __future__ import annotations

import structlog

from chronovisor.settings import Fencing, Settings
from commands.gateway.kdump import KdumpPlace
from commands.policies.fence_rules import FenceRules
from hostagent.identity import read_boot_id

log = structlog.get_logger(__name__)
_LEAST_S = {
    "soft_timeout_s": 5.0,
    "status_timeout_s": 10.0,
    "off_timeout_s": 20.0,
    "on_timeout_s": 20.0,
    "confirm_fresh_s": 3.0,
    "listen_s": 2.0,
    "boot_timeout_s": 60.0,
}
"""What machines do keeps a least time: they do not get faster."""
_MARGIN_S = 20.0
_MARGIN_S_MIN = 5.0
_SCALED = (
    *("settle_s", "soft_timeout_s", "kdump_wait_s", "kdump_timeout_s", "status_timeout_s"),
    *("off_timeout_s", "on_timeout_s", "confirm_fresh_s", "retry_s", "quiet_s"),
    *("listen_s", "boot_timeout_s"),
)


def fence_rules(settings: Fencing, scale: float) -> FenceRules:
    """Return the rules of fencing.

    The host on which this process runs is protected by its boot id, wherever it is in the log; a
    database on another machine is protected by its host's name in the settings.
    """
    return FenceRules(
        **{name: max(_LEAST_S.get(name, 0.0), getattr(settings, name) * scale) for name in _SCALED},
        margin_s=max(_MARGIN_S_MIN, _MARGIN_S * scale),
        at_once_max=settings.at_once_max,
        lost_percent_max=settings.lost_percent_max,
        protected=frozenset(settings.protected_hosts),
        protected_boots=_own_boots(),
    )


def boot_timeout_s(settings: Fencing, scale: float) -> float:
    """Return how long a host that was turned on may take to say hello."""
    return max(_LEAST_S["boot_timeout_s"], settings.boot_timeout_s * scale)


def kdump_place(settings: Settings) -> KdumpPlace | None:
    """Return where kernel dumps are listened for, None where they are not."""
    fencing = settings.fencing
    if not fencing.kdump_port:
        return None
    return KdumpPlace(
        host=fencing.kdump_host or settings.gateway.host,
        port=fencing.kdump_port,
        ended_after_s=fencing.kdump_ended_after_s * settings.time_scale,
    )


def _own_boots() -> frozenset[str]:
    try:
        return frozenset({read_boot_id()})
    except OSError as error:
        log.warning("this machine's boot id is not known", reason=str(error))
        return frozenset()
