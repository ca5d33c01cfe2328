"""Give out an enrolment token for a host."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from commands.state.host import HostStatus
from events.types.host import HostEnrolmentTokenIssued

_BEFORE_LIFE = frozenset(
    {HostStatus.INSTALLING, HostStatus.INSTALL_FAILED, HostStatus.PENDING_APPROVAL}
)


@command(
    "host.token",
    path="/v1/hosts/{id}/enrolment_token",
    permission="CREATE_HOST",
    verb="host token",
    refusals=(NotFound, WrongState),
)
class IssueEnrolmentToken(Command, frozen=True, kw_only=True):
    """Give out an enrolment token for a host.

    The answer's `token` lets one machine join as this host, once, until it expires; an earlier
    token of the host ends. It is not stored: repeating the request under its Idempotency-Key is
    the only way to see it again. A host that has joined gets a new token in maintenance only.
    """

    id: Id
    valid_s: Annotated[int, msgspec.Meta(ge=60, le=7 * 86_400)] = 3_600

    def decide(self, world: World, context: Context) -> Decision:
        """Bind the token to the host; the caller derives its secret from the token's id."""
        state = lookup.host(world, self.id)
        lookup.require_no_ssh(state)
        rejoins = state.at_rest or state.duplicate
        if state.status not in _BEFORE_LIFE and not rejoins:
            raise WrongState(
                f"Host {state.name} has joined and is {state.status.replace('_', ' ')}.",
                remedy="Put it into maintenance first if another machine is to take its place.",
            )
        issued = HostEnrolmentTokenIssued(
            token=context.ids[0],
            secret_sha256=context.secret_sha256(context.ids[0]),
            expires=context.time + dt.timedelta(seconds=self.valid_s),
        )
        return Decision(
            id=self.id,
            events=on(f"host/{self.id}", issued),
            extra={"token_id": issued.token, "expires": issued.expires},
        )
