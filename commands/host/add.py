"""Announce a host, and install it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id, Name, Secret
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NameTaken, NotFound
from commands.state import lookup
from commands.state.host_ssh import SshAccess
from commands.state.operation import begin
from commands.state.ssh_work import (
    INSTALL_STEPS,
    Fingerprint,
    Firewall,
    SshAddress,
    SshPort,
    SshUser,
    order_of,
)
from events.types.host import HostAdded
from events.types.host_ssh import SshTask


@command(
    "host.add",
    path="/v1/hosts",
    permission="CREATE_HOST",
    verb="host add",
    creates=True,
    long=True,
    refusals=(NotFound, NameTaken, InvalidField),
)
class AddHost(Command, frozen=True, kw_only=True):
    """Announce a host, and install it.

    With an address its agent is installed over SSH at once, as 'host install' does; an operation
    shows each step. Without one, or with `install` false, the machine joins with an enrolment token
    ('host token', then 'chronovisor agent join' on the machine): with `approved` without another
    word, else 'host approve' lets it in.
    """

    name: Name
    cluster: Id
    address: SshAddress = ""
    approved: bool = False
    install: Annotated[
        bool | None,
        msgspec.Meta(description="Install it over SSH now. Without it: where there is an address."),
    ] = None
    ssh_port: SshPort | None = None
    ssh_user: SshUser | None = None
    password: Secret | None = None
    fingerprint: Fingerprint | None = None
    firewall: Firewall = True

    def decide(self, world: World, context: Context) -> Decision:
        """Announce it in its cluster; the name's claim refuses a second one."""
        parent = lookup.cluster(world, self.cluster)
        installs = bool(self.address) if self.install is None else self.install
        if installs and not self.address:
            raise InvalidField(
                "A host without an address cannot be installed.",
                remedy="Say where its SSH server is reached.",
                field="address",
            )
        added = HostAdded(
            name=self.name,
            cluster=parent.id,
            data_center=parent.data_center,
            address=self.address,
            # Who can log in to the machine need not be asked again whether it may join.
            approved=self.approved or installs,
        )
        stream = f"host/{context.ids[0]}"
        if not installs:
            return Decision.of(context.ids[0], *on(stream, added))
        operation = begin(
            context, "host.install", stream, self.name, *INSTALL_STEPS, cancellable=True
        )
        ordered = order_of(
            self.name,
            str(context.command),
            SshTask.INSTALL,
            self,
            SshAccess(address=self.address),
            firewall=self.firewall,
            firewall_type=parent.firewall_type,
        )
        return Decision.of(
            context.ids[0],
            *on(stream, added, ordered),
            operation,
            operation=str(context.command),
        )
