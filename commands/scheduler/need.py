"""What is asked of the scheduler, and what it answers."""

from __future__ import annotations

from typing import Any

import msgspec

from commands.scheduler.bounds import Bounds
from commands.scheduler.layout import NOTHING_SPECIAL, Special, guaranteed_of, special_of
from commands.scheduler.load import Load
from commands.state.cluster import ClusterState
from commands.state.host import HostState
from commands.state.vm import VmState
from events.types.cluster import Scheduling
from events.types.host import Capabilities
from events.types.operation import Verdict
from events.types.run_spec import Topology, VmConfiguration
from events.types.vm_tuning import UNTUNED, CpuPolicy, Dedicated, Tuning

HOST_RESERVE_BYTES = 256 * 1024 * 1024
"""Memory that is left to the host itself, as oVirt's HostReservedMem of 256 MiB."""
VERDICTS_BYTES_MAX = 64 * 1024
"""So much of hosts' reasons is kept with an operation: those of all hosts of a cluster of some
hundreds. A dry run tells all of any cluster.
"""
HOSTS_TOLD_MAX = 20
"""So many hosts' reasons are told in one sentence; all of them are in the event."""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a VM, or its disks, need of a host.

    `starts` is False where only disks are to lie there. `leaves` is the host that a running VM is
    to be moved from; `tried` are hosts that could not start it. `moves` is True where it is moved
    while it runs; `storage_id` names the folder of its files then, None where it has no files.
    With `starts_at_once_max` (0: no limit), hosts are left out that are starting so many already:
    those in `busy`; `shutting_down` are left out as well.

    With `incoming_max` (0: no limit), hosts are left out that take in so many VMs already: those in
    `full`.

    `for_files`: `only_host` is where its files lie; a host that shares their folder will do too.

    `pinned` are the hosts that the VM may run on, None where it may on all; `preferred` come first.
    `bounds` is what affinity groups say, which the fleet fills in for `vm`. With `memory_percent`
    a host gives out more memory than it has; with `threads_as_cores` False it has as many CPUs as
    cores. `avoid` are hosts that balancing leaves out.

    `guaranteed_bytes` is what is not taken back from the VM; where hosts take memory back from VMs
    (`ballooning`), a host has all that its VMs are guaranteed.

    `tuning` is how its processors and memory lie, `special` what it takes for that; `memory_bytes`
    is 0 where huge pages are all that it takes. `tsc_hz` is the rate of the time-stamp counter of
    the host that a high-performance VM leaves.

    Where no host is found, `explained` asks for the reasons, which take longer than the search: for
    those of all hosts, as far as they can be kept, or of the first `explained_max`.
    """

    cluster: str
    vm: str | None = None
    scheduling: Scheduling = Scheduling()
    starts: bool = True
    memory_bytes: int = 0
    guaranteed_bytes: int = 0
    ballooning: bool = False
    processors: int = 0
    machine_type: str | None = None
    cpu_model: str | None = None
    bridges: tuple[str, ...] = ()
    storage_bytes: int = 0
    only_host: str | None = None
    only_host_why: str = ""
    for_files: bool = False
    starts_at_once_max: int = 0
    busy: tuple[str, ...] = ()
    shutting_down: tuple[str, ...] = ()
    incoming_max: int = 0
    full: tuple[str, ...] = ()
    leaves: str | None = None
    moves: bool = False
    storage_id: str | None = None
    tried: tuple[str, ...] = ()
    pinned: frozenset[str] | None = None
    preferred: frozenset[str] = frozenset()
    bounds: Bounds | None = None
    memory_percent: int = 100
    threads_as_cores: bool = True
    highly_available: bool = False
    ha_reservation: bool = False
    avoid: frozenset[str] = frozenset()
    falls: bool = False
    topology: Topology = Topology()
    tuning: Tuning = UNTUNED
    special: Special = NOTHING_SPECIAL
    tsc_hz: int = 0
    explained: bool = True
    explained_max: int | None = None

    @property
    def shares_cpus(self) -> bool:
        """Whether the VM runs on any CPUs that are no other VM's own."""
        return not self.tuning.pins and self.tuning.cpu_policy is CpuPolicy.NONE


def cpus_of(abilities: Capabilities, *, threads_as_cores: bool) -> int:
    """Return how many CPUs a host counts as having: threads, or cores where they are known."""
    if threads_as_cores or abilities.hardware is None:
        return abilities.cpus
    topology = abilities.hardware.topology
    return topology.sockets * topology.cores or abilities.cpus


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A host, and what VMs take of it.

    Taken is what the VMs that may run there have; expected counts those as well that will run
    there once they are started, since their disks lie there. `load` is what was measured of its
    CPUs, None where that is nothing, or too long ago.
    """

    host: HostState
    memory_taken_bytes: int = 0
    guaranteed_taken_bytes: int = 0
    processors_taken: int = 0
    memory_expected_bytes: int = 0
    processors_expected: int = 0
    vms_expected: int = 0
    highly_available: int = 0
    special: Special = NOTHING_SPECIAL
    load: Load | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The host chosen, or None with every reason why not, for as many hosts as can be kept.

    `dedicated` are the CPUs that are to be the VM's alone there, where it wants that. `hosts` is
    the number of hosts that were looked at.
    """

    host: HostState | None
    dedicated: Dedicated | None = None
    verdicts: tuple[Verdict, ...] = ()
    hosts: int = 0

    @property
    def left_out(self) -> int:
        """The number of hosts whose reasons are not among the verdicts."""
        return self.hosts - len(self.verdicts)

    @property
    def told_elsewhere(self) -> str:
        """Where the reasons are told that are not among the verdicts; "" where all are."""
        if not self.left_out:
            return ""
        return f" Of {self.left_out} hosts no verdict is kept: 'vm placement' tells each host's."

    @property
    def refusal(self) -> str:
        """One sentence or more for people, where no host was chosen."""
        if not self.verdicts:
            return "The cluster has no host."
        told = self.verdicts[:HOSTS_TOLD_MAX]
        sentences = [f"{v.host_name}: {' '.join(v.reasons)}" for v in told]
        if self.hosts > len(told):
            sentences.append(f"{self.hosts - len(told)} more hosts cannot take it either.")
        return " ".join(sentences)


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """What the scheduler makes of one host: why not, or how good it is.

    `rank` is 1 for the host that is chosen; `weights` has each unit's, from 0 (best) to 1,000, and
    `score` the sum of ranks times factors, more being better (with selector BasicWeighting, the
    sum of weights times factors, below zero).
    """

    host: str
    host_name: str
    reasons: tuple[str, ...] = ()
    rank: int | None = None
    score: int = 0
    weights: dict[str, int] = {}


def need_of(vm: VmState, cluster: ClusterState, tried: tuple[str, ...] = ()) -> Need:
    """Return what a VM needs of the host that it is started on, or moved to."""
    only, why = vm.disks_host, f"The VM's disks lie on host {vm.disks_host_name}."
    saved = None
    """With the hardware of that run its memory goes on."""
    if vm.memory is not None:
        only, why = vm.memory.host, f"The VM's saved memory lies on host {vm.memory.host_name}."
        saved = vm.memory.spec
    configuration = vm.configuration if saved is None else saved.configuration
    percent = given_out_percent(cluster) if saved is None else saved.memory_percent
    return Need(
        cluster=vm.cluster,
        scheduling=cluster.scheduling,
        **_asked(configuration, percent),
        machine_type=cluster.machine_type if saved is None else saved.machine_type,
        cpu_model=cluster.cpu_model if saved is None else saved.cpu_model,
        bridges=tuple(nic.bridge for nic in configuration.nics),
        only_host=only,
        only_host_why=why,
        for_files=vm.memory is None,
        leaves=vm.run.host if vm.run is not None else None,
        tried=tried,
        **_settled(vm, cluster),
    )


def need_to_move(vm: VmState, cluster: ClusterState, source: HostState | None) -> Need:
    """Return what a running VM needs of the host that it is moved to: all that its run has.

    `source` is the host that it runs on.
    """
    run = vm.run
    assert run is not None  # noqa: S101 - the caller has looked
    configuration = run.spec.configuration
    abilities = source.capabilities if source is not None else None
    return Need(
        cluster=vm.cluster,
        scheduling=cluster.scheduling,
        **_asked(configuration, run.spec.memory_percent),
        tsc_hz=_tsc_of(configuration, abilities),
        machine_type=run.spec.machine_type,
        cpu_model=run.spec.cpu_model,
        bridges=tuple(nic.bridge for nic in configuration.nics),
        leaves=run.host,
        moves=True,
        storage_id=abilities.storage_id if abilities and _has_files(configuration) else None,
        **_settled(vm, cluster),
    )


def given_out_percent(cluster: ClusterState) -> int:
    """Return how much of a host's memory is given out, as far as hosts can take it back."""
    return cluster.resources.memory_percent if cluster.resources.ballooning else 100


def _asked(configuration: VmConfiguration, percent: int) -> dict[str, Any]:
    """Return what a configuration asks of processors and memory."""
    huge = configuration.tuning.huge_page_bytes is not None
    return {
        "memory_bytes": 0 if huge else configuration.memory_bytes,
        "guaranteed_bytes": guaranteed_of(configuration, percent),
        "processors": configuration.topology.count,
        "topology": configuration.topology,
        "tuning": configuration.tuning,
        "special": special_of(configuration),
    }


def _tsc_of(configuration: VmConfiguration, source: Capabilities | None) -> int:
    """Return the rate that a VM's time-stamp counter is to keep; 0 where any will do."""
    if not configuration.tuning.high_performance or source is None or source.hardware is None:
        return 0
    return source.hardware.tsc_hz


def _has_files(configuration: VmConfiguration) -> bool:
    """Tell whether the VM has anything open in the storage folder."""
    boot = configuration.boot
    named = (boot.kernel, boot.initrd, configuration.cdrom)
    return bool(configuration.disks) or any(name is not None for name in named)


def _settled(vm: VmState, cluster: ClusterState) -> dict[str, Any]:
    """Return what the settings of a VM and of its cluster say of any host that it may have."""
    hosts = frozenset(member.id for member in vm.host_choice.hosts)
    return {
        "vm": vm.id,
        "pinned": hosts if vm.host_choice.pinned else None,
        "preferred": hosts,
        "memory_percent": cluster.resources.memory_percent,
        "ballooning": cluster.resources.ballooning,
        "threads_as_cores": cluster.resources.threads_as_cores,
        "highly_available": vm.availability.highly_available,
        "ha_reservation": cluster.resources.ha_reservation,
    }
