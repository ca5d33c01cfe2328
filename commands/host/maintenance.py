"""Put a host into maintenance."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Description, Id
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound, WrongState
from commands.state import lookup
from commands.state.host import Duty, HostStatus
from commands.state.operation import begin
from events.types.host import HostMaintenanceRequested
from events.types.host_maintenance import VmsThatStay

Deadline = Annotated[
    float,
    msgspec.Meta(
        ge=1,
        le=30 * 86_400,
        description="After so long, what is left is powered off with vms_that_stay power_off;"
        " otherwise the maintenance has failed, and the host takes VMs again.",
    ),
]
Staying = Annotated[
    VmsThatStay,
    msgspec.Meta(
        description="What is done with VMs that cannot be moved. wait: nothing, somebody sees to"
        " them. shut_down: those that are bound to the host are asked to shut down. power_off: as"
        " shut_down, and what is left at the deadline is powered off."
    ),
]
_ALLOWED = frozenset(
    {
        HostStatus.UP,
        HostStatus.UNASSIGNED,
        HostStatus.NON_RESPONSIVE,
        HostStatus.KDUMPING,
        HostStatus.DOWN,
        HostStatus.REBOOT,
        HostStatus.NON_OPERATIONAL,
    }
)


@command(
    "host.maintenance",
    path="/v1/hosts/{id}/maintenance",
    permission="MANIPULATE_HOST",
    verb="host maintenance",
    long=True,
    refusals=(NotFound, WrongState, InvalidField),
)
class MaintainHost(Command, frozen=True, kw_only=True):
    """Put a host into maintenance.

    The host takes no more VMs at once. Those that run there migrate away by priority, as many at a
    time as the cluster allows, each to the best host; those that are bound to the host (they may
    not be migrated, or nobody else sees their files) are shut down, unless they are to wait. The
    host is in maintenance as soon as the last one is gone. The operation shows how many are left
    and what blocks; cancel it, or activate the host, to call it off: migrations under way are
    cancelled, and what has left does not come back by itself. 'host maintenance --preview' tells
    what would become of each VM.
    """

    id: Id
    reason: Description = ""
    vms_that_stay: Staying = VmsThatStay.SHUT_DOWN
    deadline_s: Deadline | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Close the host; policies have its VMs leave, and the operation waits for the last."""
        state = lookup.host(world, self.id)
        allowed = state.status in _ALLOWED or state.failing.since is not None
        if state.duty is not Duty.ACTIVE or state.duplicate or not allowed:
            raise WrongState(
                f"Host {state.name} is {state.status.replace('_', ' ')}.",
                remedy="Only a host that takes VMs can be put into maintenance.",
            )
        if self.vms_that_stay is VmsThatStay.POWER_OFF and self.deadline_s is None:
            raise InvalidField(
                "It is not said when VMs are to be powered off.",
                remedy="Give deadline_s.",
                field="deadline_s",
            )
        stream = f"host/{self.id}"
        requested = HostMaintenanceRequested(
            name=state.name,
            reason=self.reason,
            vms_that_stay=self.vms_that_stay,
            deadline=self._deadline(context),
        )
        operation = begin(
            context, "host.maintenance", stream, state.name, "drain", cancellable=True
        )
        return Decision.of(
            self.id, *on(stream, requested), operation, operation=str(context.command)
        )

    def _deadline(self, context: Context) -> dt.datetime | None:
        if self.deadline_s is None:
            return None
        return context.time + dt.timedelta(seconds=self.deadline_s)
