"""Remove a host's agent from its machine over SSH."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id, Secret
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound, WrongState
from commands.state import lookup
from commands.state.host import Duty, HostState, HostStatus
from commands.state.operation import begin
from commands.state.ssh_work import (
    UNINSTALL_STEPS,
    Fingerprint,
    SshAddress,
    SshPort,
    SshUser,
    known_access,
    order_of,
)
from events.types.host_ssh import SshTask

_UNINSTALLABLE = frozenset(
    {
        HostStatus.INSTALLING,
        HostStatus.INSTALL_FAILED,
        HostStatus.PENDING_APPROVAL,
    }
)


@command(
    "host.uninstall",
    path="/v1/hosts/{id}/uninstall",
    permission="EDIT_HOST_CONFIGURATION",
    verb="host uninstall",
    long=True,
    refusals=(NotFound, WrongState, InvalidField),
)
class UninstallHost(Command, frozen=True, kw_only=True):
    """Remove a host's agent from its machine over SSH.

    Takes away what 'host install' put there: agent, key, certificate, firewall rule, the engine's
    SSH key. Packages and the disks of VMs stay. The host must be in maintenance, or never have
    come into service; it is kept, and can be installed again or removed.
    """

    id: Id
    address: SshAddress = ""
    ssh_port: SshPort | None = None
    ssh_user: SshUser | None = None
    password: Secret | None = None
    fingerprint: Fingerprint | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Order it; a worker of an engine carries it out, step by step."""
        state = lookup.host(world, self.id)
        lookup.require_no_ssh(state)
        never_served = frozenset[HostStatus]() if _in_service(state) else _UNINSTALLABLE
        lookup.require_out_of_service(state, never_served)
        stream = f"host/{self.id}"
        order = str(context.command)
        ordered = order_of(state.name, order, SshTask.UNINSTALL, self, known_access(state))
        operation = begin(
            context, "host.uninstall", stream, state.name, *UNINSTALL_STEPS, cancellable=False
        )
        return Decision.of(self.id, *on(stream, ordered), operation, operation=str(context.command))


def _in_service(state: HostState) -> bool:
    """Tell whether VMs may be on the host, whatever else is the matter with it."""
    joined = state.identity is not None and state.approved
    return joined and state.duty is not Duty.MAINTENANCE
