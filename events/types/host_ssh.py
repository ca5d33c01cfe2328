"""Events of work on a host's machine over SSH: stream `host/<id>`.

An order (`host.ssh_ordered`) is carried out by a worker of one of the engines. The worker names
itself in `host.ssh_begun` and is heard only until another one does; the position of that event is
the number by which the machine itself refuses a worker that was superseded. A step that cannot be
done makes everything be undone in reverse, and the order ends without success.
"""

from __future__ import annotations

import enum
from typing import ClassVar

from events.types.base import Audit, Event, Severity, event
from events.types.cluster_requirements import FirewallType

PORT = 22
USER = "root"
RESTORED = "Chronovisor was restored from a backup meanwhile: order it again."
"""Why an order has ended that was under way when the backup was taken."""


class SshTask(enum.StrEnum):
    """What is done on a machine over SSH."""

    INSTALL = "install"
    UNINSTALL = "uninstall"
    RESTART_AGENT = "restart_agent"


@event("host.ssh_ordered")
class HostSshOrdered(Event, frozen=True, kw_only=True):
    """Work on the host's machine over SSH was ordered; `order` is its id, and ends older ones.

    Without `address`, address, port and user are those of the order before. `password` is a
    reference to the vault; without it the engine's own key is shown. The machine's key must have
    `fingerprint` (`SHA256:...`) where that is given, else the one that was pinned before. With
    `firewall` the migration port is opened, in the firewall that the cluster's `firewall_type` was.
    """

    name: str
    order: str
    task: SshTask
    address: str = ""
    port: int = PORT
    user: str = USER
    password: str | None = None
    fingerprint: str = ""
    firewall: bool = True
    firewall_type: FirewallType = FirewallType.AUTO

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=509,
            name="VDS_INSTALL_IN_PROGRESS",
            message="Host {name} is being installed over SSH at {address}, as {actor} asked.",
        ),
        Audit(
            code=60_140,
            name="HOST_UNINSTALL_STARTED",
            message="The agent of host {name} is being removed, as {actor} asked.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record; a restart of the agent is told by who ordered it."""
        if self.task is SshTask.RESTART_AGENT:
            return None
        return self.audits[0 if self.task is SshTask.INSTALL else 1]


@event("host.ssh_begun")
class HostSshBegun(Event, frozen=True, kw_only=True):
    """A worker took the order; whoever had it before is heard no more."""

    order: str
    worker: str


@event("host.ssh_key_pinned")
class HostSshKeyPinned(Event, frozen=True, kw_only=True):
    """The machine's SSH key is this from now on; another one is refused.

    `given`: an admin said so; else it is what the machine showed at the first contact.
    """

    name: str
    order: str
    fingerprint: str
    key_type: str
    given: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_141,
            name="HOST_SSH_KEY_PINNED",
            message="Host {name} has the SSH key {fingerprint} ({key_type}).",
        ),
    )


@event("host.ssh_key_refused")
class HostSshKeyRefused(Event, frozen=True, kw_only=True):
    """The machine showed another SSH key than it should: nothing was sent to it."""

    name: str
    order: str
    expected: str
    shown: str

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=60_142,
            name="HOST_SSH_KEY_REFUSED",
            severity=Severity.ALERT,
            message="What answers at the address of host {name} shows the SSH key {shown} instead"
            " of {expected}: it may be another machine. Nothing was sent to it.",
        ),
    )


@event("host.ssh_step")
class HostSshStep(Event, frozen=True, kw_only=True):
    """A step begins, or is `done`; with `undo`, it is taken back. `text` says it in a sentence."""

    name: str
    order: str
    step: str
    text: str
    done: bool = False
    undo: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(code=509, name="VDS_INSTALL_IN_PROGRESS", message="Host {name}: {text}"),
        Audit(
            code=510,
            name="VDS_INSTALL_IN_PROGRESS_WARNING",
            severity=Severity.WARNING,
            message="Host {name}: {text}",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of what is done; that it begins shows in the operation."""
        return self.audits[1 if self.undo else 0] if self.done else None


@event("host.ssh_cancel_requested")
class HostSshCancelRequested(Event, frozen=True, kw_only=True):
    """The order is to be stopped, and what it did undone."""

    order: str


@event("host.ssh_undo_started")
class HostSshUndoStarted(Event, frozen=True, kw_only=True):
    """The order will not succeed; what it did is being undone. `step` is the one that failed."""

    name: str
    order: str
    step: str
    reason: str
    cancelled: bool = False

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=511,
            name="VDS_INSTALL_IN_PROGRESS_ERROR",
            severity=Severity.ERROR,
            message="Host {name}: step {step} failed, and what was done is undone: {reason}",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of a failure; a cancellation is told at its end."""
        return None if self.cancelled else self.audits[0]


@event("host.ssh_ended")
class HostSshEnded(Event, frozen=True, kw_only=True):
    """The order is over. `left` says what could not be undone, if anything."""

    name: str
    order: str
    task: SshTask
    succeeded: bool
    reason: str = ""
    cancelled: bool = False
    left: str = ""

    audits: ClassVar[tuple[Audit, ...]] = (
        Audit(
            code=504,
            name="VDS_INSTALL",
            message="Host {name} was installed.",
            resolves="VDS_INSTALL_FAILED",
        ),
        Audit(
            code=60_143,
            name="HOST_INSTALL_CANCELLED",
            severity=Severity.WARNING,
            message="The installation of host {name} was cancelled. {left}",
        ),
        Audit(
            code=60_144,
            name="HOST_UNINSTALLED",
            message="The agent was removed from the machine of host {name}.",
        ),
    )

    def audit(self) -> Audit | None:
        """Return the record of a success; the operation's end tells of a failure."""
        if self.cancelled:
            return self.audits[1]
        if not self.succeeded:
            return None
        return {SshTask.INSTALL: self.audits[0], SshTask.UNINSTALL: self.audits[2]}.get(self.task)
