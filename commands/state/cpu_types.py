"""CPU types of clusters, as oVirt lists them, and what libvirt calls them.

The order within a vendor is that of age: a host that gives one gives the older ones as well, as a
rule. What a host gives in truth it reports; this list only names what can be asked for.
"""

from __future__ import annotations

import enum

import msgspec


class CpuType(enum.StrEnum):
    """The CPU types that a cluster may ask for, besides any model of libvirt's by its own name."""

    NEHALEM = "Nehalem"
    WESTMERE = "Westmere"
    SANDY_BRIDGE = "SandyBridge"
    HASWELL_NO_TSX = "Haswell-noTSX"
    HASWELL = "Haswell"
    BROADWELL_NO_TSX = "Broadwell-noTSX"
    BROADWELL = "Broadwell"
    SKYLAKE_CLIENT = "Skylake-Client"
    SKYLAKE_SERVER = "Skylake-Server"
    OPTERON_G4 = "Opteron-G4"
    OPTERON_G5 = "Opteron-G5"
    EPYC = "EPYC"
    POWER8 = "POWER8"


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A CPU type's vendor and architecture, and libvirt's name of the model."""

    vendor: str
    architecture: str
    model: str


def _intel(model: str) -> Model:
    return Model(vendor="Intel", architecture="x86_64", model=model)


def _amd(model: str) -> Model:
    return Model(vendor="AMD", architecture="x86_64", model=model)


MODELS: dict[CpuType, Model] = {
    CpuType.NEHALEM: _intel("Nehalem"),
    CpuType.WESTMERE: _intel("Westmere"),
    CpuType.SANDY_BRIDGE: _intel("SandyBridge"),
    CpuType.HASWELL_NO_TSX: _intel("Haswell-noTSX"),
    CpuType.HASWELL: _intel("Haswell"),
    CpuType.BROADWELL_NO_TSX: _intel("Broadwell-noTSX"),
    CpuType.BROADWELL: _intel("Broadwell"),
    CpuType.SKYLAKE_CLIENT: _intel("Skylake-Client"),
    CpuType.SKYLAKE_SERVER: _intel("Skylake-Server"),
    CpuType.OPTERON_G4: _amd("Opteron_G4"),
    CpuType.OPTERON_G5: _amd("Opteron_G5"),
    CpuType.EPYC: _amd("EPYC"),
    CpuType.POWER8: Model(vendor="IBM", architecture="ppc64le", model="POWER8"),
}
"""All types, the oldest of each vendor first."""
