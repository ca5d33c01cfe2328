"""The fields in which a cluster's hardware is asked for: of use to its making and its changes."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from commands.kernel.fields import END, Bridge
from commands.kernel.refusal import InvalidField
from commands.state.cpu_types import MODELS, CpuType
from events.types.cluster_requirements import FirewallType, Requirements

BRIDGES_MAX = 64
Field = TypeVar("Field")
CpuModel = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9_.\-]{1,64}" + END,
        description="A CPU model by libvirt's name; cpu_type names the usual ones.",
    ),
]
MachineType = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^pc-q35-[0-9]{1,3}\.[0-9]{1,3}" + END,
        description="An exact q35 machine type, such as pc-q35-7.2.",
    ),
]
Emulation = Annotated[
    bool,
    msgspec.Meta(description="Whether hosts that can only emulate (QEMU's TCG) are fit."),
]
MemoryMin = Annotated[
    int,
    msgspec.Meta(ge=0, le=2**42, description="The least memory of a host; 2 GB if not given."),
]
MemoryMax = Annotated[
    int,
    msgspec.Meta(
        ge=1, le=2**50, description="The most memory of a host; 4 TB (2^42 bytes) if not given."
    ),
]
Bridges = Annotated[
    tuple[Bridge, ...],
    msgspec.Meta(
        max_length=BRIDGES_MAX,
        description="Bridges that each host must have, such as the management network's.",
    ),
]


Firewall = Annotated[
    FirewallType,
    msgspec.Meta(
        description="The firewall in which 'host install' opens the port on which VMs move: the one"
        " that is active (auto), this one and no other, or none."
    ),
]


def model_of(cpu_model: str | None, cpu_type: CpuType | None) -> str | None:
    """Return the CPU model that is asked for, None for none; raises InvalidField."""
    if cpu_type is None:
        return cpu_model
    known = MODELS[cpu_type]
    if cpu_model not in {None, known}:
        raise InvalidField(
            f"CPU type {cpu_type} is model {known}, not {cpu_model}.",
            remedy="Give one of the two.",
            field="cpu_type",
        )
    return known


def requirements(
    before: Requirements,
    *,
    emulation: bool | None,
    memory_min_bytes: int | None,
    memory_max_bytes: int | None,
    bridges: tuple[str, ...] | None,
) -> Requirements:
    """Return what hosts must have; what is not given stays as it is. Raises InvalidField."""
    wanted = Requirements(
        emulation=_or(emulation, before.emulation),
        memory_min_bytes=_or(memory_min_bytes, before.memory_min_bytes),
        memory_max_bytes=_or(memory_max_bytes, before.memory_max_bytes),
        bridges=tuple(sorted(set(_or(bridges, before.bridges)))),
    )
    most = wanted.memory_max_bytes
    if most is not None and most < wanted.memory_min_bytes:
        raise InvalidField(
            f"No host would be fit: the least memory is {wanted.memory_min_bytes} bytes, the most"
            f" {most}.",
            remedy="Let memory_max_bytes be at least memory_min_bytes.",
            field="memory_max_bytes",
        )
    return wanted


def _or(given: Field | None, before: Field) -> Field:
    return before if given is None else given
