"""Whether a host is fit for its cluster: every thing that it lacks, each in a sentence.

The checks are oVirt's (FEATURES B2). What an agent does not report is not held against its host.
"""

from __future__ import annotations

from commands.state.cluster import ClusterState
from commands.state.host import HostState
from events.types.base import Event
from events.types.host import Capabilities
from events.types.host_fitness import HostFitnessFound, Unfit, UnfitKind
from events.types.host_hardware import Virtualization

_HARDWARE_FLAGS = frozenset({"vmx", "svm"})
_X86 = "x86_64"


def unfit(abilities: Capabilities | None, cluster: ClusterState) -> tuple[Unfit, ...]:
    """Return all that a host lacks for a cluster; nothing while it has said nothing."""
    if abilities is None:
        return ()
    if abilities.architecture != cluster.architecture:
        reason = f"Its architecture is {abilities.architecture}, not {cluster.architecture}."
        return (Unfit(kind=UnfitKind.ARCHITECTURE, reason=reason),)
    return (
        *_virtualization(abilities, cluster),
        *_cpu(abilities, cluster),
        *_machine(abilities, cluster),
        *_memory(abilities, cluster),
        *_network(abilities, cluster),
        *_version(abilities, cluster),
    )


def found(host: HostState, cluster: ClusterState, abilities: Capabilities | None) -> Event | None:
    """Return the event that a host's fitness is another one than is known, if it is."""
    reasons = unfit(abilities, cluster)
    if reasons == host.unfit:
        return None
    return HostFitnessFound(
        name=host.name,
        cluster_name=cluster.name,
        reasons=reasons,
        why=" ".join(each.reason for each in reasons),
    )


def _virtualization(abilities: Capabilities, cluster: ClusterState) -> tuple[Unfit, ...]:
    virtualization = abilities.virtualization
    if virtualization is Virtualization.UNKNOWN:
        return ()
    if virtualization is Virtualization.EMULATION:
        if cluster.requirements.emulation:
            return ()
        reason = (
            "It can only emulate: KVM is not there. See that vmx or svm is on in its firmware, or"
            " let the cluster have emulation."
        )
        return (Unfit(kind=UnfitKind.VIRTUALIZATION, reason=reason),)
    flags = frozenset(abilities.hardware.cpu_flags) if abilities.hardware is not None else None
    if not flags or abilities.architecture != _X86:
        return ()
    if "nx" not in flags:
        reason = "Its CPU has no NX flag: turn it on in the firmware."
        return (Unfit(kind=UnfitKind.CPU_FLAGS, reason=reason),)
    if not flags & _HARDWARE_FLAGS:
        reason = "Its CPU has neither vmx nor svm: turn virtualization on in the firmware."
        return (Unfit(kind=UnfitKind.VIRTUALIZATION, reason=reason),)
    return ()


def _cpu(abilities: Capabilities, cluster: ClusterState) -> tuple[Unfit, ...]:
    if not abilities.cpu_models or cluster.cpu_model in abilities.cpu_models:
        return ()
    reason = (
        f"It cannot provide the cluster's CPU model {cluster.cpu_model}; its own is"
        f" {abilities.cpu_model or 'not known'}."
    )
    return (Unfit(kind=UnfitKind.CPU_MODEL, reason=reason),)


def _machine(abilities: Capabilities, cluster: ClusterState) -> tuple[Unfit, ...]:
    if not abilities.machine_types or cluster.machine_type in abilities.machine_types:
        return ()
    reason = f"Its QEMU does not know the cluster's machine type {cluster.machine_type}."
    return (Unfit(kind=UnfitKind.MACHINE_TYPE, reason=reason),)


def _memory(abilities: Capabilities, cluster: ClusterState) -> tuple[Unfit, ...]:
    least, most = cluster.requirements.memory_min_bytes, cluster.requirements.memory_max_bytes
    memory = f"It has {abilities.memory_bytes >> 20} MiB of memory"
    if abilities.memory_bytes < least:
        reason = f"{memory}; {least >> 20} MiB are needed."
    elif most is not None and abilities.memory_bytes > most:
        reason = f"{memory}; its cluster takes hosts of up to {most >> 20} MiB."
    else:
        return ()
    return (Unfit(kind=UnfitKind.MEMORY, reason=reason),)


def _network(abilities: Capabilities, cluster: ClusterState) -> tuple[Unfit, ...]:
    missing = sorted(set(cluster.requirements.bridges) - set(abilities.bridges))
    if not missing:
        return ()
    reason = f"It has no bridge {', '.join(missing)}, which the cluster requires."
    return (Unfit(kind=UnfitKind.NETWORK, reason=reason),)


def _version(abilities: Capabilities, cluster: ClusterState) -> tuple[Unfit, ...]:
    known = abilities.compatibility_versions
    if not known or cluster.compatibility_version in known:
        return ()
    reason = (
        f"Its agent knows compatibility versions {', '.join(known)}, and not the cluster's"
        f" {cluster.compatibility_version}."
    )
    return (Unfit(kind=UnfitKind.VERSION, reason=reason),)
