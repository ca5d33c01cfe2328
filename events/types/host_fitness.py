"""Whether a host is fit for its cluster: on the host's stream, whenever that changes."""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

from events.types.base import Audit, Event, Severity, event


class UnfitKind(enum.StrEnum):
    """What a host lacks."""

    ARCHITECTURE = "architecture"
    VIRTUALIZATION = "virtualization"
    CPU_FLAGS = "cpu_flags"
    CPU_MODEL = "cpu_model"
    MACHINE_TYPE = "machine_type"
    MEMORY = "memory"
    NETWORK = "network"
    VERSION = "version"


class Unfit(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a host lacks, in a sentence."""

    kind: UnfitKind
    reason: str


_OF_KIND = {
    UnfitKind.CPU_MODEL: (515, "VDS_CPU_LOWER_THAN_CLUSTER"),
    UnfitKind.NETWORK: (519, "VDS_SET_NONOPERATIONAL_NETWORK"),
    UnfitKind.CPU_FLAGS: (601, "CPU_FLAGS_NX_IS_MISSING"),
    UnfitKind.MACHINE_TYPE: (9604, "EMULATED_MACHINES_INCOMPATIBLE_WITH_CLUSTER"),
    UnfitKind.VERSION: (141, "VDS_VERSION_NOT_SUPPORTED_FOR_CLUSTER"),
}
_UNFIT = {
    kind: Audit(
        code=code,
        name=name,
        severity=Severity.WARNING,
        message="Host {name} is not fit for cluster {cluster_name}, and takes no VMs: {why}",
    )
    for kind, (code, name) in _OF_KIND.items()
}
_OTHERWISE = Audit(
    code=517,
    name="VDS_SET_NONOPERATIONAL",
    severity=Severity.WARNING,
    message="Host {name} is not fit for cluster {cluster_name}, and takes no VMs: {why}",
)
_FIT = Audit(
    code=14,
    name="VDS_RECOVER",
    message="Host {name} is fit for cluster {cluster_name} again.",
    resolves="VDS_SET_NONOPERATIONAL",
)


@event("host.fitness_found")
class HostFitnessFound(Event, frozen=True, kw_only=True):
    """The host is fit for its cluster now, or is not, for these reasons.

    `why` has them in one text.
    """

    name: str
    cluster_name: str
    reasons: tuple[Unfit, ...] = ()
    why: str = ""

    audits: ClassVar[tuple[Audit, ...]] = (*_UNFIT.values(), _OTHERWISE, _FIT)

    def audit(self) -> Audit | None:
        """Return oVirt's record of what is lacking, if it is one thing; else the general one."""
        if not self.reasons:
            return _FIT
        kinds = {unfit.kind for unfit in self.reasons}
        return _UNFIT.get(kinds.pop(), _OTHERWISE) if len(kinds) == 1 else _OTHERWISE
