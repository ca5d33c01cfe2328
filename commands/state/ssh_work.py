"""Ordering work on a host's machine over SSH: the fields that its verbs share, its steps."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.fields import END
from commands.kernel.refusal import InvalidField
from commands.state.host import HostState
from events.types.host_ssh import PORT, USER, HostSshOrdered, SshTask

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
    msgspec.Meta(description="Open the port on which VMs move here, where a firewall is active."),
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


class SshLogin(msgspec.Struct, frozen=True, kw_only=True):
    """What an admin said of the login; None and "" where nothing. `password` is a reference."""

    address: str = ""
    port: int | None = None
    user: str | None = None
    password: str | None = None
    fingerprint: str | None = None


def order_of(
    state: HostState, order: str, task: SshTask, login: SshLogin, *, firewall: bool = True
) -> HostSshOrdered:
    """Return the event that orders a task; what was not said is as it was the last time."""
    known = state.ssh.access
    address = login.address or (known.address if known is not None else state.address)
    if not address:
        raise InvalidField(
            f"The address of host {state.name} is not known.",
            remedy="Say where its SSH server is reached.",
            field="address",
        )
    return HostSshOrdered(
        name=state.name,
        order=order,
        task=task,
        address=address,
        port=login.port or (known.port if known is not None else PORT),
        user=login.user or (known.user if known is not None else USER),
        password=login.password,
        fingerprint=(login.fingerprint or "").rstrip("="),
        firewall=firewall,
    )
