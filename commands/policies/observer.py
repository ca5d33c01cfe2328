"""What is told of every change of the policies' facts."""

from __future__ import annotations

from commands.state.cluster import ClusterState
from commands.state.host import HostState
from commands.state.operation import OperationState
from commands.state.vm import VmState


class Observer:
    """Is told of every change of a state: of what it was, or None, and what it is, or None."""

    def vm(self, before: VmState | None, after: VmState | None) -> None:
        """Learn of a change of a VM."""

    def host(self, before: HostState | None, after: HostState | None) -> None:
        """Learn of a change of a host."""

    def cluster(self, before: ClusterState | None, after: ClusterState | None) -> None:
        """Learn of a change of a cluster."""

    def operation(self, before: OperationState | None, after: OperationState | None) -> None:
        """Learn of a change of an operation; its end is the last, with `after.outcome`."""
