"""Ordering work on a host's machine over SSH: the fields that its verbs share, its steps."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from commands.kernel.fields import END
from commands.kernel.refusal import InvalidField
from commands.state.host import HostState
from commands.state.host_ssh import SshAccess
from events.types.cluster_requirements import FirewallType
from events.types.host_ssh import HostSshOrdered, SshTask

ADDRESS_PATTERN = r"^[A-Za-z0-9_.:\-]*" + END

SshAddress = Annotated[
    str,
    msgspec.Meta(
        max_length=255,
        pattern=ADDRESS_PATTERN,
        description="The machine's host name or address, where its SSH server is reached.",
    ),
]
SshPort = Annotated[
    int,
    msgspec.Meta(ge=1, le=65_535, description="The port of its SSH server. Without it: 22."),
]
SshUser = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=32,
        pattern=r"^[a-z_][a-z0-9_.\-]*\$?" + END,
        description="Who logs in. Without it: root. Anybody else must be allowed to use sudo.",
    ),
]
Fingerprint = Annotated[
    str,
    msgspec.Meta(
        min_length=50,
        max_length=51,
        pattern=r"^SHA256:[A-Za-z0-9+/]{43}=?" + END,
        description="The SSH key that the machine must show ('ssh-keygen -lf' tells it). Without"
        " it: the one that it showed at the first contact.",
    ),
]
Firewall = Annotated[
    bool,
    msgspec.Meta(
        description="Open the port on which VMs move here, in the firewall that the cluster's"
        " firewall_type says."
    ),
]

INSTALL_STEPS = (
    *("connect", "inspect", "packages", "libvirt", "bundle", "authorize", "join"),
    *("firewall", "start", "answer"),
)
UNINSTALL_STEPS = ("connect", "inspect", "stop", "firewall", "files", "authorize")
RESTART_STEPS = ("connect", "restart")
STEPS = {
    SshTask.INSTALL: INSTALL_STEPS,
    SshTask.UNINSTALL: UNINSTALL_STEPS,
    SshTask.RESTART_AGENT: RESTART_STEPS,
}
"""The names of what each task does, in their order."""


class SshAsked(Protocol):
    """What a verb was told of the login; None and "" where nothing. `password` is a reference."""

    @property
    def address(self) -> str:
        """Where its SSH server is reached; "" is where it is known to be."""

    @property
    def ssh_port(self) -> int | None:
        """The port of that server."""

    @property
    def ssh_user(self) -> str | None:
        """Who logs in."""

    @property
    def password(self) -> str | None:
        """The reference to the password in the vault."""

    @property
    def fingerprint(self) -> str | None:
        """The key that the machine must show."""


def known_access(state: HostState) -> SshAccess:
    """Return how a host's machine was reached the last time, or what was said when it was added."""
    return state.ssh.access or SshAccess(address=state.address)


def order_of(
    name: str,
    order: str,
    task: SshTask,
    asked: SshAsked,
    known: SshAccess,
    *,
    firewall: bool = True,
    firewall_type: FirewallType = FirewallType.AUTO,
) -> HostSshOrdered:
    """Return the event that orders a task; what was not asked for is as it is known."""
    address = asked.address or known.address
    if not address:
        raise InvalidField(
            f"The address of host {name} is not known.",
            remedy="Say where its SSH server is reached.",
            field="address",
        )
    return HostSshOrdered(
        name=name,
        order=order,
        task=task,
        address=address,
        port=asked.ssh_port or known.port,
        user=asked.ssh_user or known.user,
        password=asked.password,
        fingerprint=(asked.fingerprint or "").rstrip("="),
        firewall=firewall,
        firewall_type=firewall_type,
    )
