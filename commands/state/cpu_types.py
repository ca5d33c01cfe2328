"""CPU types of clusters, as oVirt lists them, and what libvirt calls them.

The order within a vendor is that of age: a host that gives one gives the older ones as well, as a
rule. What a host gives in truth it reports; this list only names what can be asked for. All are of
x86_64, as all clusters are: oVirt's POWER8 and others of ppc64le and s390x are not there.
"""

from __future__ import annotations

import enum


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


MODELS: dict[CpuType, str] = {
    CpuType.NEHALEM: "Nehalem",
    CpuType.WESTMERE: "Westmere",
    CpuType.SANDY_BRIDGE: "SandyBridge",
    CpuType.HASWELL_NO_TSX: "Haswell-noTSX",
    CpuType.HASWELL: "Haswell",
    CpuType.BROADWELL_NO_TSX: "Broadwell-noTSX",
    CpuType.BROADWELL: "Broadwell",
    CpuType.SKYLAKE_CLIENT: "Skylake-Client",
    CpuType.SKYLAKE_SERVER: "Skylake-Server",
    CpuType.OPTERON_G4: "Opteron_G4",
    CpuType.OPTERON_G5: "Opteron_G5",
    CpuType.EPYC: "EPYC",
}
"""Libvirt's names of all types, the oldest of each vendor first."""
