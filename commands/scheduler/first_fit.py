"""First fit: the first host, by name, that every filter lets through, and why not the others.

A filter is a function from what is needed and a candidate to a sentence that says why not, or
None. The scheduler with weights, balancing and affinity comes with its own issue; this is the
pipeline's first stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from commands.state.host import HostState, HostStatus
from events.types.operation import Verdict

HOST_RESERVE_BYTES = 256 * 1024 * 1024
"""Memory that is left to the host itself, as oVirt's HostReservedMem of 256 MiB."""
VERDICTS_MAX = 200
"""So many hosts' reasons fit into one event, which has at most 256 KiB."""
HOSTS_TOLD_MAX = 20
"""So many hosts' reasons are told in one sentence; all of them are in the event."""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a VM, or its disks, need of a host."""

    cluster: str
    memory_bytes: int = 0
    processors: int = 0
    machine_type: str | None = None
    cpu_model: str | None = None
    bridges: tuple[str, ...] = ()
    storage_bytes: int = 0
    only_host: str | None = None
    only_host_why: str = ""
    tried: tuple[str, ...] = ()


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A host, and the memory that VMs placed there already take of it."""

    host: HostState
    memory_taken_bytes: int = 0


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The host chosen, or None with every reason why not, for at most `VERDICTS_MAX` hosts.

    `hosts` is the number of hosts that were looked at.
    """

    host: HostState | None
    verdicts: tuple[Verdict, ...] = ()
    hosts: int = 0

    @property
    def refusal(self) -> str:
        """One sentence or more for people, where no host was chosen."""
        if not self.verdicts:
            return "The cluster has no host."
        told = self.verdicts[:HOSTS_TOLD_MAX]
        sentences = [f"{v.host_name}: {' '.join(v.reasons)}" for v in told]
        if self.hosts > len(told):
            sentences.append(f"{self.hosts - len(told)} more hosts cannot take it either.")
        return " ".join(sentences)


Filter = Callable[[Need, Candidate], str | None]


def _is_up(_need: Need, candidate: Candidate) -> str | None:
    status = candidate.host.status
    return None if status is HostStatus.UP else f"The host is {status.replace('_', ' ')}."


def _is_wanted(need: Need, candidate: Candidate) -> str | None:
    wanted = need.only_host is None or need.only_host == candidate.host.id
    return None if wanted else need.only_host_why


def _was_not_tried(need: Need, candidate: Candidate) -> str | None:
    tried = candidate.host.id in need.tried
    return "It was tried and could not start the VM." if tried else None


def _has_memory(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if abilities is None:
        return "It has not said yet what it can do."
    free = abilities.memory_bytes - HOST_RESERVE_BYTES - candidate.memory_taken_bytes
    if need.memory_bytes <= free:
        return None
    return f"It has {max(free, 0) >> 20} MiB of memory free, {need.memory_bytes >> 20} are needed."


def _has_processors(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if abilities is None or need.processors <= abilities.cpus:
        return None
    return f"It has {abilities.cpus} CPUs, the VM wants {need.processors}."


def _has_machine_type(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if abilities is None or need.machine_type in {None, *abilities.machine_types}:
        return None
    return f"It does not know machine type {need.machine_type}."


def _has_cpu_model(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if abilities is None or need.cpu_model in {None, *abilities.cpu_models}:
        return None
    return f"It cannot provide CPU model {need.cpu_model}."


def _has_bridges(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    missing = set(need.bridges) - set(abilities.bridges if abilities else need.bridges)
    return f"It has no bridge {', '.join(sorted(missing))}." if missing else None


def _has_storage(need: Need, candidate: Candidate) -> str | None:
    abilities = candidate.host.capabilities
    if not need.storage_bytes or abilities is None or abilities.storage_free_bytes > 0:
        return None
    return "Its storage folder has no space left."


FILTERS: tuple[Filter, ...] = (
    _is_up,
    _is_wanted,
    _was_not_tried,
    _has_memory,
    _has_processors,
    _has_machine_type,
    _has_cpu_model,
    _has_bridges,
    _has_storage,
)


def fits(need: Need, candidate: Candidate) -> bool:
    """Tell whether every filter lets the host through."""
    return all(check(need, candidate) is None for check in FILTERS)


def choose(need: Need, candidates: Sequence[Candidate]) -> Choice:
    """Return the first fitting host of the cluster, by name; else every host's reasons."""
    of_cluster = sorted(
        (c for c in candidates if c.host.cluster == need.cluster and not c.host.removed),
        key=lambda c: c.host.name,
    )
    verdicts = []
    for candidate in of_cluster:
        reasons = tuple(
            reason for check in FILTERS if (reason := check(need, candidate)) is not None
        )
        if not reasons:
            return Choice(host=candidate.host)
        verdicts.append(
            Verdict(host=candidate.host.id, host_name=candidate.host.name, reasons=reasons)
        )
    return Choice(host=None, verdicts=tuple(verdicts[:VERDICTS_MAX]), hosts=len(verdicts))
