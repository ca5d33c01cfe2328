"""What admins say of how a VM's processors and memory lie on those of its host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from commands.kernel.fields import END, MIB
from commands.kernel.refusal import InvalidField
from commands.state.hardware import PROCESSORS_MAX
from events.types.run_spec import VmConfiguration
from events.types.vm_tuning import (
    CpuPin,
    CpuPolicy,
    GuestNumaNode,
    NumaMode,
    Tuning,
    members,
    spelled,
)

NUMBER_MAX = 4_095
"""The highest number of a host's CPU that can be named, and of a NUMA node."""
HUGE_PAGE_SIZES = (2 * MIB, 1024 * MIB)
"""What x86 has: 2 MiB and 1 GiB."""
NodeSet = Annotated[
    str,
    msgspec.Meta(
        max_length=1_000,
        pattern=r"^(\d{1,4}(-\d{1,4})?([,+]\d{1,4}(-\d{1,4})?)*)?" + END,
        description="Numbers such as 0-3,8; + stands for a comma as well.",
    ),
]
NumberSet = Annotated[NodeSet, msgspec.Meta(min_length=1)]


class PinInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A virtual CPU, by its number from 0 on, and the CPUs of the host that it may run on."""

    vcpu: Annotated[int, msgspec.Meta(ge=0, lt=PROCESSORS_MAX)]
    cpus: NumberSet


class NumaNodeInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A NUMA node of the guest; host_nodes are those of the host that its memory is taken of."""

    vcpus: NumberSet
    memory_bytes: Annotated[int, msgspec.Meta(ge=MIB)]
    host_nodes: NodeSet = ""
    mode: NumaMode = NumaMode.STRICT


Pins = Annotated[tuple[PinInput, ...], msgspec.Meta(max_length=PROCESSORS_MAX)]
NumaNodes = Annotated[tuple[NumaNodeInput, ...], msgspec.Meta(max_length=64)]
HugePageBytes = Annotated[
    int, msgspec.Meta(ge=1, description="Take all memory of huge pages of 2 MiB or 1 GiB.")
]
HighPerformance = Annotated[
    bool,
    msgspec.Meta(
        description="Choose a host with as many sockets, cores and threads where there is one, and"
        " move it only to where the time-stamp counter runs as fast."
    ),
]


CpuPolicyInput = Annotated[
    CpuPolicy,
    msgspec.Meta(
        description="Give each virtual CPU a CPU of its host to itself (dedicated), or a whole core"
        " (isolate_threads); they are chosen with the host."
    ),
]


class TuningInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a VM's processors and memory lie on those of its host; see `POST /v1/vms/{id}/tuning`."""

    cpu_pins: Pins = ()
    numa_nodes: NumaNodes = ()
    huge_page_bytes: HugePageBytes | None = None
    high_performance: HighPerformance = False
    cpu_policy: CpuPolicyInput = CpuPolicy.NONE


def with_tuning(configuration: VmConfiguration, wanted: TuningInput | None) -> VmConfiguration:
    """Return a configuration with what is asked for; raises InvalidField."""
    if wanted is None:
        return configuration
    found = tuning(
        wanted.cpu_pins,
        wanted.numa_nodes,
        wanted.huge_page_bytes,
        high_performance=wanted.high_performance,
        cpu_policy=wanted.cpu_policy,
    )
    return require_consistent(msgspec.structs.replace(configuration, tuning=found))


def tuning(
    pins: Iterable[PinInput],
    numa_nodes: Iterable[NumaNodeInput],
    huge_page_bytes: int | None,
    *,
    high_performance: bool,
    cpu_policy: CpuPolicy,
) -> Tuning:
    """Return what was asked for, with its sets as the kernel spells them; raises InvalidField."""
    return Tuning(
        pins=tuple(
            CpuPin(vcpu=pin.vcpu, cpus=_spelled(pin.cpus, "cpu_pins"))
            for pin in sorted(pins, key=lambda pin: pin.vcpu)
        ),
        numa_nodes=tuple(
            GuestNumaNode(
                vcpus=_spelled(node.vcpus, "numa_nodes"),
                memory_bytes=node.memory_bytes,
                host_nodes=_spelled(node.host_nodes, "numa_nodes"),
                mode=node.mode,
            )
            for node in numa_nodes
        ),
        huge_page_bytes=huge_page_bytes,
        high_performance=high_performance,
        cpu_policy=cpu_policy,
    )


def require_consistent(configuration: VmConfiguration) -> VmConfiguration:
    """Return the configuration; raises InvalidField where its tuning does not suit it."""
    count = configuration.topology.count
    wanted = configuration.tuning
    pinned = [pin.vcpu for pin in wanted.pins]
    if len(set(pinned)) < len(pinned) or any(vcpu >= count for vcpu in pinned):
        raise InvalidField(
            f"CPU pins name a virtual CPU twice, or one that the VM has not: it has {count}.",
            remedy=f"Name each of 0 to {count - 1} once at most.",
            field="cpu_pins",
        )
    if pinned and wanted.cpu_policy is not CpuPolicy.NONE:
        raise InvalidField(
            f"CPUs that are its own ({wanted.cpu_policy}) are chosen with the VM's host: it cannot"
            " be pinned to others.",
            remedy="Give either cpu_pins or cpu_policy.",
            field="cpu_pins",
        )
    if wanted.numa_nodes:
        _require_nodes(configuration)
    size = wanted.huge_page_bytes
    if size is None:
        return configuration
    if size not in HUGE_PAGE_SIZES:
        raise InvalidField(
            f"There are no huge pages of {size} bytes.",
            remedy="Choose 2 MiB (2097152) or 1 GiB (1073741824).",
            field="huge_page_bytes",
        )
    parts = [node.memory_bytes for node in wanted.numa_nodes] or [configuration.memory_bytes]
    if any(part % size for part in parts):
        raise InvalidField(
            f"The memory of the VM, or of one of its NUMA nodes, is no multiple of {size} bytes.",
            remedy="Change the memory, or take smaller huge pages.",
            field="huge_page_bytes",
        )
    return configuration


def _require_nodes(configuration: VmConfiguration) -> None:
    count, nodes = configuration.topology.count, configuration.tuning.numa_nodes
    named = [vcpu for node in nodes for vcpu in sorted(members(node.vcpus))]
    if sorted(named) != list(range(count)):
        raise InvalidField(
            f"The NUMA nodes do not name each of the VM's {count} virtual CPUs once.",
            remedy=f"Share 0 to {count - 1} out among the nodes.",
            field="numa_nodes",
        )
    total = sum(node.memory_bytes for node in nodes)
    if total != configuration.memory_bytes:
        raise InvalidField(
            f"The NUMA nodes have {total} bytes of memory together, the VM"
            f" {configuration.memory_bytes}.",
            remedy="Share all of the VM's memory out among the nodes.",
            field="numa_nodes",
        )
    if any(node.memory_bytes % MIB for node in nodes):
        raise InvalidField(
            "The memory of a NUMA node is no whole number of MiB.",
            remedy="Give each node whole MiB.",
            field="numa_nodes",
        )
    for node in nodes:
        if node.mode is NumaMode.PREFERRED and len(members(node.host_nodes)) > 1:
            raise InvalidField(
                "A host can prefer one of its NUMA nodes only.",
                remedy="Name one host node, or use mode interleave.",
                field="numa_nodes",
            )


def _spelled(text: str, field: str) -> str:
    """Return a set as the kernel writes it; raises InvalidField."""
    text = text.replace("+", ",")
    parts = [part.split("-") for part in text.split(",")] if text else []
    for ends in parts:
        if int(ends[0]) > int(ends[-1]) or int(ends[-1]) > NUMBER_MAX:
            raise InvalidField(
                f"{text} is no set of numbers up to {NUMBER_MAX}.",
                remedy="Write it as 0-3,8.",
                field=field,
            )
    return spelled(members(text))
