"""What the inventory shows of work on a host's machine over SSH."""

from __future__ import annotations

import msgspec

from events.types import host_ssh as e
from events.types.host_ssh import SshTask


class SshDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How the machine is reached over SSH, and what is, or was last, done there.

    `task` is under way, as `order`; `failed` says why the newest installation did not succeed. The
    machine must show the key `fingerprint`, pinned at the first contact or given by an admin.
    """

    port: int = e.PORT
    user: str = e.USER
    fingerprint: str = ""
    key_type: str = ""
    order: str = ""
    task: SshTask | None = None
    step: str = ""
    text: str = ""
    failed: str = ""
    installed: bool = False
    fresh: bool = False

    @property
    def installing(self) -> bool:
        """Whether the agent is being put there, or taken away."""
        return self.task in {SshTask.INSTALL, SshTask.UNINSTALL}


def ordered(
    ssh: SshDocument, address: str, event: e.HostSshOrdered, *, joined: bool
) -> SshDocument:
    """Return what is shown once an order was given; `address` is the one until now."""
    after = msgspec.structs.replace(
        ssh, order=event.order, task=event.task, step="", text="", fresh=not joined
    )
    if not event.address:
        return after
    if event.address != address and not joined:
        after = msgspec.structs.replace(after, fingerprint="", key_type="")
    return msgspec.structs.replace(after, port=event.port, user=event.user)


def forgotten(ssh: SshDocument) -> SshDocument:
    """Return what is shown of a host that has its place by other means: what failed is past."""
    return ssh if ssh.task is not None else msgspec.structs.replace(ssh, failed="")


def restored(ssh: SshDocument) -> SshDocument:
    """Return what is shown once the log was restored: an order of then is over."""
    failed = e.RESTORED if ssh.task is SshTask.INSTALL else ""
    after = msgspec.structs.replace(ssh, order="", task=None, step="", text="")
    return msgspec.structs.replace(after, failed=failed) if ssh.installing else after


def ended(ssh: SshDocument, event: e.HostSshEnded) -> SshDocument:
    """Return what is shown once an order is over."""
    after = msgspec.structs.replace(ssh, order="", task=None, step="", text="")
    if event.task is SshTask.RESTART_AGENT:
        return after
    failed = ""
    if event.task is SshTask.INSTALL and not event.succeeded:
        failed = "It was cancelled." if event.cancelled else event.reason
        failed = f"{failed} {event.left}".strip()
    installed = event.task is SshTask.INSTALL if event.succeeded else ssh.installed
    return msgspec.structs.replace(after, failed=failed, installed=installed)


def takes_agent_away(ssh: SshDocument, event: e.HostSshEnded) -> bool:
    """Tell whether the machine is no host any more once the order is over."""
    if event.task is SshTask.UNINSTALL:
        return event.succeeded
    return event.task is SshTask.INSTALL and not event.succeeded and ssh.fresh
