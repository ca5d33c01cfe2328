"""What becomes of each VM on a host that is to be without VMs: it moves, shuts down, or blocks.

One function says it to everybody: to the watch that has VMs leave, to the saga that tells what
blocks, and to the preview.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable

import msgspec

from commands.policies.saga import EvacuationRules
from commands.scheduler.need import HOSTS_TOLD_MAX, Choice, Need, need_to_move
from commands.state.cluster import ClusterState
from commands.state.host import HostState
from commands.state.vm import VmState, VmStatus
from events.types.host_maintenance import VmsThatStay
from events.types.migration import MigrationMode
from events.types.vm_migration import MigrationCause
from events.types.vm_tuning import Dedicated

_UNDER_WAY = {
    VmStatus.MIGRATING: "It is migrating.",
    VmStatus.POWERING_DOWN: "It is shutting down.",
    VmStatus.SAVING_STATE: "It is being suspended.",
    VmStatus.WAITING_FOR_LAUNCH: "It is starting; it leaves once it is up.",
    VmStatus.POWERING_UP: "It is starting; it leaves once it is up.",
    VmStatus.RESTORING_STATE: "It is starting; it leaves once it is up.",
    VmStatus.REBOOT_IN_PROGRESS: "It is rebooting; it leaves once it is up.",
}
_AT_DEADLINE = "It is powered off at the deadline."


class Fate(enum.StrEnum):
    """What becomes of a VM on a host that is to be without VMs."""

    MOVES = "moves"
    SHUTS_DOWN = "shuts_down"
    POWERS_OFF = "powers_off"  # at the deadline, if it is there still
    WAITS = "waits"  # for something under way, after which it is looked at again
    BLOCKS = "blocks"  # until somebody does something


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one VM, and why; `host` is where it moves, to CPUs that are its own there."""

    vm: VmState
    fate: Fate
    reason: str = ""
    host: HostState | None = None
    dedicated: Dedicated | None = None


class Evacuation(msgspec.Struct, frozen=True, kw_only=True):
    """One host's evacuation: its host and cluster, and what is done with VMs that cannot move.

    `key` names it, so that each of its attempts begins once; it began at `position`.
    """

    key: str
    host: HostState
    cluster: ClusterState
    position: int
    cause: MigrationCause
    vms_that_stay: VmsThatStay
    deadline: dt.datetime | None = None

    def attempt(self, vm: VmState) -> str:
        """Return the cause of the next attempt to have a VM leave.

        Another run of the VM there (after a restore it is adopted) was not asked to leave yet.
        """
        return f"{self.key}/{vm.incarnation}/{vm.leaving.count}"


def of_maintenance(host: HostState, cluster: ClusterState) -> Evacuation:
    """Return the evacuation that a host's maintenance is."""
    asked = host.maintenance
    return Evacuation(
        key=f"maintenance/{asked.operation}",
        host=host,
        cluster=cluster,
        position=asked.position,
        cause=MigrationCause.MAINTENANCE,
        vms_that_stay=asked.vms_that_stay,
        deadline=asked.deadline,
    )


def of_unfit(host: HostState, cluster: ClusterState) -> Evacuation:
    """Return the evacuation of a host that is not fit for its cluster: what can move, moves."""
    return Evacuation(
        key=f"unfit/{host.id}/{host.unfit_since}",
        host=host,
        cluster=cluster,
        position=host.unfit_since,
        cause=MigrationCause.UNFIT_HOST,
        vms_that_stay=VmsThatStay.WAIT,
    )


def outlook(
    evacuation: Evacuation,
    vm: VmState,
    rules: EvacuationRules,
    choose: Callable[[Need], Choice],
) -> Outlook:
    """Return what becomes of a VM that may run on the host."""
    waits = _waits(evacuation.host, vm)
    if waits:
        return Outlook(vm=vm, fate=Fate.WAITS, reason=waits)
    if vm.status is not VmStatus.UP:
        why = f"It is {vm.status.replace('_', ' ')}, and can be neither moved nor shut down."
        return _stuck(evacuation, vm, why)
    tried = _tried(evacuation, vm, rules)
    if tried:
        return _stuck(evacuation, vm, tried)
    bound = bound_to(evacuation.host, vm)
    if bound:
        if evacuation.vms_that_stay is VmsThatStay.WAIT:
            return Outlook(vm=vm, fate=Fate.BLOCKS, reason=bound)
        return Outlook(vm=vm, fate=Fate.SHUTS_DOWN, reason=bound)
    if vm.migrates.mode is MigrationMode.MANUAL:
        return _stuck(evacuation, vm, "It is migrated by people only.")
    need = need_to_move(vm, evacuation.cluster, evacuation.host)
    choice = choose(msgspec.structs.replace(need, explained_max=HOSTS_TOLD_MAX))
    if choice.host is None:
        return _stuck(evacuation, vm, f"No host can take it. {choice.refusal}")
    return Outlook(vm=vm, fate=Fate.MOVES, host=choice.host, dedicated=choice.dedicated)


def urgency(vm: VmState) -> tuple[int, str, str]:
    """Return what orders VMs: those of the highest priority leave first."""
    own = vm.migrates.priority
    return (-(vm.availability.priority if own is None else own), vm.name, vm.id)


def bound_to(host: HostState, vm: VmState) -> str:
    """Return why a VM can never move off a host, "" where it may."""
    if vm.migrates.mode is MigrationMode.NONE:
        return "It may not be migrated."
    if vm.host_choice.pinned and [one.id for one in vm.host_choice.hosts] == [host.id]:
        return "It is pinned to this host."
    if folder_of(host, vm) == "":
        return "Its files lie in a storage folder that no other host sees."
    return ""


def folder_of(host: HostState, vm: VmState) -> str | None:
    """Return the folder of a running VM's files ("" for the host's own), None if it has none."""
    assert vm.run is not None  # noqa: S101 - the caller has looked
    configuration = vm.run.spec.configuration
    boot = configuration.boot
    files = (boot.kernel, boot.initrd, configuration.cdrom)
    if not configuration.disks and all(name is None for name in files):
        return None
    return host.capabilities.storage_id if host.capabilities is not None else ""


def not_before(evacuation: Evacuation, vm: VmState, rules: EvacuationRules) -> dt.datetime | None:
    """Return when a VM may be tried again, None where it has not been tried yet."""
    failed = vm.leaving.since(evacuation.position)
    if not failed:
        return None
    return failed[-1].time + dt.timedelta(seconds=rules.retry_s * len(failed))


def _waits(host: HostState, vm: VmState) -> str:
    if vm.run is None or vm.run.host != host.id:
        incoming = vm.migration is not None and vm.migration.destination == host.id
        if incoming and vm.status is VmStatus.MIGRATING:
            return "It is on its way here, and leaves once it has arrived."
        return "What an earlier run left here has still to be ended."
    if vm.run.stopping:
        return "It is being powered off."
    return _UNDER_WAY.get(vm.status, "")


def _tried(evacuation: Evacuation, vm: VmState, rules: EvacuationRules) -> str:
    begun = [each for each in vm.leaving.since(evacuation.position) if each.begun]
    if len(begun) < rules.attempts_max:
        return ""
    return f"{len(begun)} attempts failed, and no more are made; the last: {begun[-1].reason}"


def _stuck(evacuation: Evacuation, vm: VmState, why: str) -> Outlook:
    if evacuation.vms_that_stay is VmsThatStay.POWER_OFF:
        return Outlook(vm=vm, fate=Fate.POWERS_OFF, reason=f"{why} {_AT_DEADLINE}")
    return Outlook(vm=vm, fate=Fate.BLOCKS, reason=why)
