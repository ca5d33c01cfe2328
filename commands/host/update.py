"""Put a host into another cluster."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InUse, NotFound, WrongState
from commands.state import fitness, lookup
from commands.state.host import HostState, HostStatus
from events.types.base import Event
from events.types.host import HostClusterChanged

_MOVABLE = frozenset(
    {
        HostStatus.INSTALLING,
        HostStatus.INSTALL_FAILED,
        HostStatus.PENDING_APPROVAL,
    }
)


@command(
    "host.update",
    method="PATCH",
    path="/v1/hosts/{id}",
    permission="EDIT_HOST_CONFIGURATION",
    verb="host update",
    refusals=(NotFound, WrongState, InUse),
)
class UpdateHost(Command, frozen=True, kw_only=True):
    """Put a host into another cluster.

    It must be in maintenance, or not have come into service yet, and no VM's disks or saved memory
    may lie there. The cluster must be of the same data center: a host is in one only, always. To
    have it in another, remove it and add it there.
    """

    id: Id
    cluster: Id | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Move it; claims refuse it while VMs refer to the host."""
        del context
        state = lookup.host(world, self.id)
        lookup.require_no_ssh(state)
        events = self._moved(world, state) if self.cluster not in {None, state.cluster} else ()
        return Decision.of(self.id, *on(f"host/{self.id}", *events))

    def _moved(self, world: World, state: HostState) -> tuple[Event, ...]:
        assert self.cluster is not None  # noqa: S101 - the caller has looked
        lookup.require_out_of_service(state, _MOVABLE)
        cluster = lookup.cluster(world, self.cluster)
        if cluster.data_center != state.data_center:
            raise WrongState(
                f"Cluster {cluster.name} is of another data center than host {state.name}.",
                remedy="Remove the host, and add it to that cluster.",
            )
        changed = HostClusterChanged(
            name=state.name,
            cluster=cluster.id,
            cluster_name=cluster.name,
            previous_cluster=state.cluster,
        )
        found = fitness.found(state, cluster, state.capabilities)
        return (changed, *((found,) if found is not None else ()))
