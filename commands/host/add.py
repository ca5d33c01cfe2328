"""Announce a host."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import END, Id, Name
from commands.kernel.fold import World
from commands.kernel.refusal import NameTaken, NotFound
from commands.state import lookup
from events.types.host import HostAdded


@command(
    "host.add",
    path="/v1/hosts",
    permission="CREATE_HOST",
    verb="host add",
    creates=True,
    refusals=(NotFound, NameTaken),
)
class AddHost(Command, frozen=True, kw_only=True):
    """Announce a host.

    The machine joins with an enrolment token (`host token`, then `chronovisor agent join` on the
    machine). With `approved` it may do so without another word; else `host approve` lets it in.
    """

    name: Name
    cluster: Id
    address: Annotated[
        str,
        msgspec.Meta(
            max_length=255,
            pattern="^[!-~]*" + END,
            description="A host name or address, for people to find the machine by.",
        ),
    ] = ""
    approved: bool = False

    def decide(self, world: World, context: Context) -> Decision:
        """Announce it in its cluster; the name's claim refuses a second one."""
        parent = lookup.cluster(world, self.cluster)
        added = HostAdded(
            name=self.name,
            cluster=parent.id,
            data_center=parent.data_center,
            address=self.address,
            approved=self.approved,
        )
        return Decision.of(context.ids[0], *on(f"host/{context.ids[0]}", added))
