"""Strays: copies of VMs that a restored log has forgotten, and that nobody may touch.

The host that runs one shows it among the domains that are not managed, by the name given here.
"""

from __future__ import annotations

from collections.abc import Iterable

from commands.state.host import HostState
from events.types.base import Event
from events.types.host import HostUnmanagedDomainsFound


def stray_name(vm: str, incarnation: int) -> str:
    """Return how a stray is shown among the domains that are not managed."""
    return f"{vm} (incarnation {incarnation})"


def strays_told(event: Event) -> set[str]:
    """Return the VMs of which an event tells that strays are there."""
    return _vms(event.domains) if isinstance(event, HostUnmanagedDomainsFound) else set()


def runs_stray(host: HostState, vm: str) -> bool:
    """Tell whether a host shows a stray of the VM."""
    return vm in _vms(host.unmanaged)


def _vms(domains: Iterable[str]) -> set[str]:
    # A foreign domain is shown by its own name, and no VM has such an id.
    parts = (domain.partition(" (incarnation ") for domain in domains)
    return {vm for vm, found, _ in parts if found}
