"""Events of copies of a VM that should not be there any more: stream `vm/<id>`."""

from __future__ import annotations

from typing import ClassVar

from events.claims import Claim, release, shared
from events.types.base import Audit, Event, Severity, event


@event("vm.stale_copy_found")
class VmStaleCopyFound(Event, frozen=True, kw_only=True):
    """A copy runs where it must not (addressed to that host, which is to destroy it)."""

    name: str
    host: str
    host_name: str
    incarnation: int

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_020,
            name="VM_STALE_COPY",
            severity=Severity.ALERT,
            message="Host {host_name} runs a stale copy of VM {name} (incarnation {incarnation});"
            " it is being destroyed.",
        ),
    )

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """Keep the host, which has to end that copy, from being removed."""
        return (shared(f"host/{self.host}", f"{stream}/stale/{self.incarnation}"),)


@event("vm.stale_copy_gone")
class VmStaleCopyGone(Event, frozen=True, kw_only=True):
    """The stale copy is destroyed."""

    name: str
    host: str
    incarnation: int

    def claims(self, stream: str) -> tuple[Claim, ...]:
        """The host has nothing to end any more."""
        return (release(f"host/{self.host}", f"{stream}/stale/{self.incarnation}"),)
