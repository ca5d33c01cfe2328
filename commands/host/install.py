"""Install a host's agent over SSH."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id, Secret
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound, WrongState
from commands.state import lookup
from commands.state.host import HostStatus
from commands.state.operation import begin
from commands.state.ssh_work import (
    INSTALL_STEPS,
    Fingerprint,
    Firewall,
    SshAddress,
    SshPort,
    SshUser,
    known_access,
    order_of,
)
from events.types.host_ssh import SshTask

_INSTALLABLE = frozenset(
    {
        HostStatus.INSTALLING,
        HostStatus.INSTALL_FAILED,
        HostStatus.PENDING_APPROVAL,
    }
)


@command(
    "host.install",
    path="/v1/hosts/{id}/install",
    permission="EDIT_HOST_CONFIGURATION",
    verb="host install",
    long=True,
    refusals=(NotFound, WrongState, InvalidField),
)
class InstallHost(Command, frozen=True, kw_only=True):
    """Install a host's agent over SSH.

    The engine logs in, installs libvirt, QEMU and the agent, lets the machine join as this host,
    and starts the agent. Done again, it changes what is missing and brings the agent up to date. A
    host in service is put into maintenance first. Cancelled or failed, it takes back what it did.
    Without a password the engine shows its own key ('ssh-key show').
    """

    id: Id
    address: SshAddress = ""
    ssh_port: SshPort | None = None
    ssh_user: SshUser | None = None
    password: Secret | None = None
    fingerprint: Fingerprint | None = None
    firewall: Firewall = True

    def decide(self, world: World, context: Context) -> Decision:
        """Order it; a worker of an engine carries it out, step by step."""
        state = lookup.host(world, self.id)
        lookup.require_no_ssh(state)
        lookup.require_out_of_service(state, _INSTALLABLE)
        stream = f"host/{self.id}"
        ordered = order_of(
            state.name,
            str(context.command),
            SshTask.INSTALL,
            self,
            known_access(state),
            firewall=self.firewall,
            firewall_type=lookup.cluster(world, state.cluster).firewall_type,
        )
        operation = begin(
            context, "host.install", stream, state.name, *INSTALL_STEPS, cancellable=True
        )
        return Decision.of(self.id, *on(stream, ordered), operation, operation=str(context.command))
