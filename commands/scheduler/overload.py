"""The filter CPUOverloaded: hosts whose CPUs are too busy get no more VMs.

Where a host's load is measured, it counts once all readings of some minutes are too high, as in
oVirt: a peak, or a host that was not measured in one of them, bars nobody. Where it is reckoned, it
counts at once.
"""

from __future__ import annotations

from commands.scheduler.columns import Columns, Mask
from commands.scheduler.load import READINGS_KEPT, VCPU_CONSUMPTION_PERCENT, Load
from commands.scheduler.need import Candidate, Need, cpus_of
from commands.scheduler.units import Filter
from events.types.cluster import Scheduling


def _overloaded(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if abilities is None or not need.starts:
        return None
    if candidate.load is not None:
        return _too_busy(candidate.load, need.scheduling)
    limit = need.scheduling.high_utilization_percent
    counted = cpus_of(abilities, threads_as_cores=need.threads_as_cores)
    load = candidate.processors_taken * VCPU_CONSUMPTION_PERCENT
    if load <= limit * counted:
        return None
    percent = load // max(1, counted)
    return f"Its VMs are reckoned to take {percent} % of its CPUs; above {limit} % it gets no more."


def _too_busy(load: Load, scheduling: Scheduling) -> str | None:
    limit, minutes = scheduling.high_utilization_percent, _minutes(scheduling)
    if load.least(minutes) <= 10 * limit:
        return None
    time = f"{minutes} minutes" if minutes > 1 else "a minute"
    return (
        f"Its CPUs were busy to more than {limit} % for {time} ({load.newest // 10} % in the last"
        " one); it gets no more VMs."
    )


def _minutes(scheduling: Scheduling) -> int:
    """Return for how long a host must have been too busy; it is known so far back at most."""
    return min(scheduling.cpu_over_commit_duration_minutes, READINGS_KEPT)


def _not_overloaded(need: Need, columns: Columns) -> Mask | None:
    if not need.starts:
        return None
    limit, minutes = need.scheduling.high_utilization_percent, _minutes(need.scheduling)
    reckoned = columns.processors_reckoned * VCPU_CONSUMPTION_PERCENT
    mask: Mask = reckoned <= columns.counted(need) * limit
    mask &= columns.figures("busy_for", minutes) <= 10 * limit
    return mask


OVERLOADED = Filter(name="CPUOverloaded", passing=_not_overloaded, objection=_overloaded)
