"""What a simulated host can do and what it measures: plausible, and always the same."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence

from events.types.host import Capabilities
from events.types.host_memory import Swap, swap_of
from events.wire.agent import HostSample, VmSample
from hostagent.simulated_state import SimulatedDomain, hash_fraction

STORAGE_BYTES = 4 * 1024**4
_GIB = 1024**3
SWAP_BYTES = 32 * _GIB
_SAMPLE_PERIOD_S = 600.0

GENEROUS = Capabilities(
    architecture="x86_64",
    cpus=64,
    cpu_model="Skylake-Server-IBRS",
    cpu_models=(
        "qemu64",
        "Nehalem",
        "Westmere",
        "SandyBridge",
        "IvyBridge",
        "Haswell-noTSX",
        "Haswell",
        "Broadwell-noTSX",
        "Broadwell",
        "Skylake-Client",
        "Skylake-Client-IBRS",
        "Skylake-Server",
        "Skylake-Server-IBRS",
    ),
    memory_bytes=512 * _GIB,
    machine_types=("pc-q35-7.2", "pc-q35-7.1", "pc-q35-6.2", "pc-i440fx-7.2"),
    bridges=("br0", "ovirtmgmt"),
    storage_free_bytes=STORAGE_BYTES,
    hypervisor_version="simulated 1",
)


def memory_used(running: Iterable[SimulatedDomain]) -> int:
    """Return what a host and its domains use, which may be more than the memory that it has."""
    return 2 * _GIB + sum(_memory_used(domain) for domain in running)


def swapped_out(running: Iterable[SimulatedDomain], able: Capabilities) -> Swap:
    """Return what of it does not fit into the host's memory, as far as its swap takes it."""
    beyond = memory_used(running) - able.memory_bytes
    return swap_of(SWAP_BYTES, min(max(0, beyond), SWAP_BYTES), max(0, -beyond), able.memory_bytes)


def sample_machine(
    running: Sequence[SimulatedDomain], able: Capabilities, now: float
) -> tuple[HostSample, Sequence[VmSample]]:
    """Return one sample of a host and its domains at `now`, in seconds since 1970."""
    time_utc = dt.datetime.fromtimestamp(now, dt.UTC)
    vms = [_vm_sample(domain, now, time_utc) for domain in running]
    busy_cpus = sum(
        sample.cpu_percent / 100 * domain.cpus for sample, domain in zip(vms, running, strict=True)
    )
    used = memory_used(running)
    host = HostSample(
        time=time_utc,
        cpu_percent=min(100.0, 1.0 + 100 * busy_cpus / able.cpus),
        load=busy_cpus,
        memory_total_bytes=able.memory_bytes,
        memory_used_bytes=min(able.memory_bytes, used),
        storage_free_bytes=able.storage_free_bytes,
        vms_running=len(vms),
        network_receive_bytes_per_s=sum(s.network_receive_bytes_per_s for s in vms),
        network_transmit_bytes_per_s=sum(s.network_transmit_bytes_per_s for s in vms),
    )
    return host, vms


def _vm_sample(domain: SimulatedDomain, now: float, time_utc: dt.datetime) -> VmSample:
    phase = 2 * math.pi * (now / _SAMPLE_PERIOD_S + hash_fraction(domain.vm))
    wave, level = (1 + math.sin(phase)) / 2, _level(domain)
    if domain.busy and domain.paused is None:
        wave, level = 1.0, 1.0
    return VmSample(
        vm=domain.vm,
        incarnation=domain.incarnation,
        time=time_utc,
        cpu_percent=round(100 * level * wave, 2),
        memory_bytes=domain.memory_bytes,
        memory_used_bytes=_memory_used(domain),
        disk_read_bytes_per_s=round(2e6 * level * wave),
        disk_write_bytes_per_s=round(1e6 * level * wave),
        disk_read_operations_per_s=round(200 * level * wave),
        disk_write_operations_per_s=round(100 * level * wave),
        network_receive_bytes_per_s=round(5e5 * level * wave),
        network_transmit_bytes_per_s=round(4e5 * level * wave),
    )


def _level(domain: SimulatedDomain) -> float:
    return 0.0 if domain.paused is not None else hash_fraction(domain.vm, "level")


def _memory_used(domain: SimulatedDomain) -> int:
    return int(domain.memory_bytes * (0.3 + 0.5 * _level(domain)))
