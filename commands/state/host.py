"""The state of a host."""

from __future__ import annotations

import datetime as dt
import enum

import msgspec

from commands.kernel.fold import Fold
from commands.state import host_capabilities, host_failing, host_maintenance, host_power, host_ssh
from commands.state.host_failing import Failing
from commands.state.host_maintenance import Maintenance
from commands.state.host_power import HostPower
from commands.state.host_ssh import SshOrder, SshState
from events.envelope import Recorded
from events.types import host as e
from events.types.host_fitness import HostFitnessFound, Unfit
from events.types.host_power import HostFencedOff
from events.types.host_refresh import HostRefreshed, HostRefreshRequested
from events.types.host_ssh import HostSshEnded, SshTask

FORMER_BOOTS_MAX = 32
"""How many former boot ids are remembered, to tell a clone from a reboot."""


class HostStatus(enum.StrEnum):
    """States of a host, in oVirt's words where it has them."""

    INSTALLING = "installing"
    INSTALL_FAILED = "install_failed"
    PENDING_APPROVAL = "pending_approval"
    UNASSIGNED = "unassigned"
    UP = "up"
    NON_RESPONSIVE = "non_responsive"
    KDUMPING = "kdumping"
    DOWN = "down"
    REBOOT = "reboot"
    NON_OPERATIONAL = "non_operational"
    ERROR = "error"
    PREPARING_FOR_MAINTENANCE = "preparing_for_maintenance"
    MAINTENANCE = "maintenance"
    REMOVED = "removed"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolment token: its id, the SHA-256 of its secret, when it ends."""

    id: str
    secret_sha256: str
    expires: dt.datetime


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The machine behind the host: pinned once the host is approved."""

    public_key_sha256: str
    hardware: str
    signing_request: str
    token: str


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A host's certificate (PEM) and its SHA-256 (hex)."""

    pem: str
    fingerprint: str


class Duty(enum.StrEnum):
    """What the admins want of the host."""

    ACTIVE = "active"
    PREPARING = "preparing"
    MAINTENANCE = "maintenance"


class HostState(msgspec.Struct, frozen=True, kw_only=True):
    """A host, as decisions see it.

    `proved_off` is the position at which the machine was proved to be off, 0 where it was not, or
    was heard of since: a machine that speaks is on, and speaks for itself.

    `unconfirmed`: since the log was restored, nobody has told what runs there. `restored` is the
    position at which it last became so: orders from before may be outdated. `missing` are the VMs
    that it should have run then, and did not mention. Incarnations count from `incarnations_from`
    on at least.

    Of the hardware that it reports, only what decisions look at is kept, and the digest of all.

    `refresh` is the position at which it was asked to say anew what it can do, until it has.

    `unfit` is what it lacks for its cluster, as it was found at position `unfit_since`.

    `booted` is the position, and `booted_at` the time, at which its present boot was heard of;
    `session_at` is the time of its last hello.

    `renewed` is a certificate that was issued and not shown yet. Until it is, the one before it
    counts as well, so that a host which never got it, or died while storing it, is not locked out.
    """

    id: str
    name: str
    cluster: str
    data_center: str
    address: str
    approved: bool
    token: Token | None = None
    identity: Identity | None = None
    certificate: str | None = None
    certificate_fingerprint: str | None = None
    renewed: Certificate | None = None
    session: str | None = None
    boot: str | None = None
    former_boots: tuple[str, ...] = ()
    booted: int = 0
    booted_at: dt.datetime | None = None
    session_at: dt.datetime | None = None
    silent: bool = False
    proved_off: int = 0
    duplicate: bool = False
    duty: Duty = Duty.ACTIVE
    capabilities: e.Capabilities | None = None
    hardware_sha256: str = ""
    unmanaged: tuple[str, ...] = ()
    skewed: bool = False
    removed: bool = False
    unconfirmed: bool = False
    restored: int = 0
    missing: tuple[str, ...] = ()
    incarnations_from: int = 0
    ssh: SshState = SshState()
    power: HostPower = HostPower()
    maintenance: Maintenance = Maintenance()
    failing: Failing = Failing()
    unfit: tuple[Unfit, ...] = ()
    unfit_since: int = 0
    refresh: int = 0

    def has_reported(self, capabilities: e.Capabilities) -> bool:
        """Tell whether what a host says of itself is what it said before."""
        kept = host_capabilities.kept(capabilities)
        same = self.hardware_sha256 == host_capabilities.digest(capabilities)
        return kept == self.capabilities and same

    @property
    def known_off(self) -> bool:
        """Whether it was proved off and not heard since; a restored log may have forgotten more."""
        return self.proved_off > self.restored

    @property
    def mute(self) -> bool:
        """Whether the host is not heard, so that what runs there is not known.

        Of one that is known to be off, each VM's own event tells that it has ended.
        """
        if self.duplicate:
            return not self.removed
        return self._standing is HostStatus.NON_RESPONSIVE

    @property
    def at_rest(self) -> bool:
        """Whether the host is in maintenance, also where its machine is off, or boots."""
        return self._standing is HostStatus.MAINTENANCE

    def counts(self, fingerprint: str) -> bool:
        """Tell whether a certificate is the host's, or the one that is to take its place."""
        renewed = self.renewed is not None and self.renewed.fingerprint == fingerprint
        return renewed or self.certificate_fingerprint == fingerprint

    @property
    def status(self) -> HostStatus:
        """The host's status: where it stands, or what is known of its machine while it is away."""
        standing = self._standing
        if standing not in _AWAY or self.unconfirmed:
            return standing
        power = self.power
        if not self.known_off:
            dumps = power.kdumping and standing is HostStatus.NON_RESPONSIVE
            return HostStatus.KDUMPING if dumps else standing
        if power.boot_overdue:
            return standing
        return HostStatus.DOWN if power.turned_on_at is None else HostStatus.REBOOT

    @property
    def _standing(self) -> HostStatus:
        """Where the host stands, whatever is known of its machine; the worst news first."""
        if self.removed:
            return HostStatus.REMOVED
        if self.duplicate:
            return HostStatus.ERROR
        if self.ssh.installing:
            return HostStatus.INSTALLING
        if self.identity is None:
            failed = self.ssh.install_failed
            return HostStatus.INSTALL_FAILED if failed else HostStatus.INSTALLING
        if not self.approved:
            return HostStatus.PENDING_APPROVAL
        if self.unconfirmed:
            return HostStatus.NON_RESPONSIVE  # it may have left maintenance since
        if self.ssh.install_failed:
            return HostStatus.INSTALL_FAILED
        if self.duty is Duty.MAINTENANCE:
            return HostStatus.MAINTENANCE
        if self.silent or self.known_off:
            return HostStatus.NON_RESPONSIVE
        if self.duty is Duty.PREPARING:
            return HostStatus.PREPARING_FOR_MAINTENANCE
        if self.session is None:
            return HostStatus.UNASSIGNED
        if self.failing.since is not None:
            return HostStatus.ERROR
        return HostStatus.NON_OPERATIONAL if self.unfit else HostStatus.UP


_AWAY = frozenset({HostStatus.NON_RESPONSIVE, HostStatus.MAINTENANCE})
"""Where a host may stand whose machine is known to be off, to boot, or to write its dump."""


def evolve(state: HostState | None, recorded: Recorded) -> HostState | None:
    """Fold one event of a host's stream."""
    after = _evolve(state, recorded)
    if after is None:
        return None
    power = host_power.evolve(after.power, recorded)
    maintenance = host_maintenance.evolve(after.maintenance, recorded)
    failing = host_failing.evolve(after.failing, recorded)
    known = (after.power, after.maintenance, after.failing)
    if all(one is other for one, other in zip((power, maintenance, failing), known, strict=True)):
        return after
    return msgspec.structs.replace(after, power=power, maintenance=maintenance, failing=failing)


def _evolve(state: HostState | None, recorded: Recorded) -> HostState | None:
    event = recorded.event
    if isinstance(event, e.HostAdded):
        return HostState(
            id=recorded.object_id,
            name=event.name,
            cluster=event.cluster,
            data_center=event.data_center,
            address=event.address,
            approved=event.approved,
        )
    if state is None:
        return None
    if isinstance(event, HostRefreshRequested | HostRefreshed):
        asked = recorded.position if isinstance(event, HostRefreshRequested) else 0
        return msgspec.structs.replace(state, refresh=asked)
    if isinstance(event, HostFitnessFound):
        since = recorded.position if event.reasons else 0
        return msgspec.structs.replace(state, unfit=event.reasons, unfit_since=since)
    if isinstance(event, e.HostConfirmedOff | HostFencedOff):
        return msgspec.structs.replace(state, proved_off=recorded.position, unconfirmed=False)
    if isinstance(event, e.HostStateUnconfirmed):
        return msgspec.structs.replace(
            state,
            session=None,
            silent=True,
            unconfirmed=True,
            restored=recorded.position,
            missing=(),
            incarnations_from=event.incarnations_from,
            ssh=host_ssh.restored(state.ssh),
        )
    if isinstance(event, e.HostSessionStarted):
        if event.boot != state.boot:
            state = msgspec.structs.replace(
                state, booted=recorded.position, booted_at=recorded.time
            )
        state = msgspec.structs.replace(state, session_at=recorded.time)
    ssh = host_ssh.evolve(state.ssh, recorded, joined=state.identity is not None)
    if ssh is not None:
        return _evolve_ssh(state, ssh, event)
    return _evolve_enrolment(state, event) or _evolve_life(state, event) or state


def _evolve_ssh(state: HostState, ssh: SshState, event: object) -> HostState:
    """Fold what was done over SSH; a machine that the agent was taken from is no host any more."""
    order = state.ssh.order
    if not isinstance(event, HostSshEnded) or order is None or not _taken_away(order, event):
        address = ssh.access.address if ssh.access is not None else state.address
        return msgspec.structs.replace(state, ssh=ssh, address=address)
    return msgspec.structs.replace(
        state,
        ssh=ssh,
        token=None,
        identity=None,
        certificate=None,
        certificate_fingerprint=None,
        renewed=None,
        session=None,
        silent=False,
    )


def _taken_away(order: SshOrder, ended: HostSshEnded) -> bool:
    if ended.task is SshTask.UNINSTALL:
        return ended.succeeded
    return ended.task is SshTask.INSTALL and not ended.succeeded and order.fresh


def _evolve_enrolment(state: HostState, event: object) -> HostState | None:
    match event:
        case e.HostEnrolmentTokenIssued():
            token = Token(id=event.token, secret_sha256=event.secret_sha256, expires=event.expires)
            return msgspec.structs.replace(state, token=token)
        case e.HostJoinRequested():
            identity = Identity(
                public_key_sha256=event.public_key_sha256,
                hardware=event.hardware,
                signing_request=event.signing_request,
                token=event.token,
            )
            return msgspec.structs.replace(
                state,
                identity=identity,
                certificate=None,
                certificate_fingerprint=None,
                renewed=None,
                ssh=host_ssh.forgotten(state.ssh),
            )
        case e.HostApproved():
            return msgspec.structs.replace(state, approved=True, duplicate=False, former_boots=())
        case e.HostCertificateIssued() if state.certificate is not None:
            renewed = Certificate(pem=event.certificate, fingerprint=event.fingerprint)
            return msgspec.structs.replace(state, renewed=renewed)
        case e.HostCertificateTakenUp():
            return _take_up(state, event.fingerprint)
        case e.HostCertificateIssued():
            return msgspec.structs.replace(
                state,
                certificate=event.certificate,
                certificate_fingerprint=event.fingerprint,
            )
        case e.HostRemoved():
            return msgspec.structs.replace(state, removed=True)
        case _:
            return None


def _take_up(state: HostState, fingerprint: str) -> HostState:
    renewed = state.renewed
    if renewed is None or renewed.fingerprint != fingerprint:
        return state
    return msgspec.structs.replace(
        state,
        certificate=renewed.pem,
        certificate_fingerprint=renewed.fingerprint,
        renewed=None,
    )


def _evolve_life(state: HostState, event: object) -> HostState | None:
    match event:
        case e.HostSessionStarted():
            former = state.former_boots
            if state.boot is not None and state.boot != event.boot:
                former = (*former, state.boot)[-FORMER_BOOTS_MAX:]
            return msgspec.structs.replace(
                state,
                session=event.session,
                boot=event.boot,
                former_boots=former,
                silent=False,
                proved_off=0,
                skewed=False,
                ssh=host_ssh.forgotten(state.ssh),
            )
        case e.HostStateConfirmed():
            return msgspec.structs.replace(state, unconfirmed=False, missing=event.missing)
        case e.HostSilent():
            return msgspec.structs.replace(state, silent=True)
        case e.HostCapabilitiesReported():
            return msgspec.structs.replace(
                state,
                capabilities=host_capabilities.kept(event.capabilities),
                hardware_sha256=host_capabilities.digest(event.capabilities),
            )
        case e.HostActivated():
            ssh = host_ssh.forgotten(state.ssh)
            return msgspec.structs.replace(state, duty=Duty.ACTIVE, ssh=ssh)
        case e.HostMaintenanceRequested():
            return msgspec.structs.replace(state, duty=Duty.PREPARING)
        case e.HostMaintenanceEntered():
            return msgspec.structs.replace(state, duty=Duty.MAINTENANCE)
        case e.HostDuplicateRefused():
            return msgspec.structs.replace(state, duplicate=True)
        case e.HostUnmanagedDomainsFound():
            return msgspec.structs.replace(state, unmanaged=event.domains)
        case e.HostClockSkewed():
            return msgspec.structs.replace(state, skewed=True)
        case e.HostClusterChanged():
            return msgspec.structs.replace(state, cluster=event.cluster)
        case _:
            return None


HOST = Fold("host", HostState, evolve)
