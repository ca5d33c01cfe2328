"""Telemetry: libvirt's counters and the kernel's, turned into use and rates by difference."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from events.wire.agent import HostSample, VmSample
from hostagent.libvirt_processes import ProcessTable
from hostagent.libvirt_storage import Storage

KIB = 1024
NANOSECONDS_PER_S = 1_000_000_000
IDLE_FIELDS = slice(3, 5)  # idle and iowait, in /proc/stat
CPU_FIELDS = slice(0, 8)  # guest time is part of user time already
VIRTUAL_PREFIXES = ("lo", "vnet", "tap", "macvtap", "veth", "virbr")


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """What only grows, of one VM, at one moment."""

    cpu_ns: int
    disk_read_bytes: int
    disk_write_bytes: int
    disk_read_operations: int
    disk_write_operations: int
    network_receive_bytes: int
    network_transmit_bytes: int


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One VM's answer in libvirt's bulk statistics."""

    counters: Counters
    cpus: int
    memory_bytes: int
    memory_used_bytes: int


def reading(record: Mapping[str, Any]) -> Reading:
    """Read one record of libvirt's bulk statistics; what is missing counts as 0.

    Used memory is what the guest itself calls in use, and QEMU's own share of the host's memory
    where the guest does not say.
    """

    def number(key: str) -> int:
        value = record.get(key, 0)
        return value if isinstance(value, int) else 0

    def total(group: str, field: str) -> int:
        return sum(number(f"{group}.{place}.{field}") for place in range(number(f"{group}.count")))

    memory = number("balloon.current") or number("balloon.maximum")
    available, usable = number("balloon.available"), number("balloon.usable")
    used = available - usable if available and usable else number("balloon.rss")
    return Reading(
        counters=Counters(
            cpu_ns=number("cpu.time"),
            disk_read_bytes=total("block", "rd.bytes"),
            disk_write_bytes=total("block", "wr.bytes"),
            disk_read_operations=total("block", "rd.reqs"),
            disk_write_operations=total("block", "wr.reqs"),
            # libvirt counts from the guest's side: what the guest receives is rx.
            network_receive_bytes=total("net", "rx.bytes"),
            network_transmit_bytes=total("net", "tx.bytes"),
        ),
        cpus=max(number("vcpu.current"), 1),
        memory_bytes=memory * KIB,
        memory_used_bytes=min(max(used, 0), memory) * KIB,
    )


def vm_sample(
    vm: str,
    incarnation: int,
    time: dt.datetime,
    now: Reading,
    before: Reading | None,
    elapsed_s: float,
) -> VmSample:
    """Return a sample; the first one of a run has no rates."""

    def rate(field: str) -> float:
        if before is None or elapsed_s <= 0:
            return 0.0
        grown = getattr(now.counters, field) - getattr(before.counters, field)
        return float(max(grown, 0)) / elapsed_s  # a reset counter is no negative rate

    return VmSample(
        vm=vm,
        incarnation=incarnation,
        time=time,
        cpu_percent=min(100.0 * rate("cpu_ns") / NANOSECONDS_PER_S / now.cpus, 100.0),
        memory_bytes=now.memory_bytes,
        memory_used_bytes=now.memory_used_bytes,
        disk_read_bytes_per_s=rate("disk_read_bytes"),
        disk_write_bytes_per_s=rate("disk_write_bytes"),
        disk_read_operations_per_s=rate("disk_read_operations"),
        disk_write_operations_per_s=rate("disk_write_operations"),
        network_receive_bytes_per_s=rate("network_receive_bytes"),
        network_transmit_bytes_per_s=rate("network_transmit_bytes"),
    )


class HostReading(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel's figures at one moment; `busy` and `ticks` in the kernel's ticks."""

    busy: int
    ticks: int
    memory_total_bytes: int
    memory_used_bytes: int
    load: float
    receive_bytes: int
    transmit_bytes: int


def processor_ticks(stat: str) -> tuple[int, int]:
    """Return busy and all ticks of all CPUs, from /proc/stat."""
    fields = [int(word) for word in stat.splitlines()[0].split()[1:]][CPU_FIELDS]
    return sum(fields) - sum(fields[IDLE_FIELDS]), sum(fields)


def meminfo_bytes(meminfo: str) -> dict[str, int]:
    """Return the figures of /proc/meminfo by their names."""
    lines = (line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    return {name: int(rest.split()[0]) * KIB for name, rest in lines}


def memory_bytes(meminfo: str) -> tuple[int, int]:
    """Return the host's whole memory and what is in use, from /proc/meminfo."""
    return memory_of(meminfo_bytes(meminfo))


def memory_of(figures: Mapping[str, int]) -> tuple[int, int]:
    """Return the host's whole memory and what is in use, from the figures of /proc/meminfo."""
    total = figures.get("MemTotal", 0)
    return total, total - figures.get("MemAvailable", total)


def host_memory_bytes() -> int:
    """Return the host's whole memory (libvirt 9 answers something else in its node info)."""
    return memory_bytes(Path("/proc/meminfo").read_text())[0]


def network_bytes(net_dev: str, bridges: Iterable[str]) -> tuple[int, int]:
    """Return what went in and out of the host, from /proc/net/dev: bridges and guests' taps would
    count the same bytes again.
    """
    skipped = set(bridges)
    received = transmitted = 0
    for line in net_dev.splitlines()[2:]:
        name, _, rest = line.partition(":")
        device, fields = name.strip(), rest.split()
        if device in skipped or device.startswith(VIRTUAL_PREFIXES):
            continue
        received += int(fields[0])
        transmitted += int(fields[8])
    return received, transmitted


def read_host(processes: ProcessTable, bridges: Sequence[str]) -> HostReading:
    """Read the kernel's figures."""
    proc = Path("/proc")
    busy, ticks = processor_ticks((proc / "stat").read_text())
    total, used = memory_bytes((proc / "meminfo").read_text())
    net_dev = (processes.of_host / "net" / "dev").read_text()
    received, transmitted = network_bytes(net_dev, bridges)
    return HostReading(
        busy=busy,
        ticks=ticks,
        memory_total_bytes=total,
        memory_used_bytes=used,
        load=os.getloadavg()[0],
        receive_bytes=received,
        transmit_bytes=transmitted,
    )


class Sampler:
    """Remembers the last sample, to make rates of the next one."""

    def __init__(self, processes: ProcessTable, storage: Storage) -> None:
        self._processes = processes
        self._storage = storage
        self._host: HostReading | None = None
        self._vms: dict[tuple[str, int], Reading] = {}
        self._at_s = 0.0

    def sample(
        self,
        records: Mapping[tuple[str, int], Mapping[str, Any]],
        *,
        bridges: Sequence[str],
        time: dt.datetime,
        at_s: float,
    ) -> tuple[HostSample, tuple[VmSample, ...]]:
        """Return one sample. `records` are libvirt's, by VM and incarnation; `at_s` is a clock
        that never jumps.
        """
        elapsed_s = at_s - self._at_s
        readings = {key: reading(record) for key, record in records.items()}
        vms = tuple(
            vm_sample(vm, incarnation, time, now, self._vms.get((vm, incarnation)), elapsed_s)
            for (vm, incarnation), now in readings.items()
        )
        host = self._host_sample(len(vms), bridges, time, elapsed_s)
        self._vms, self._at_s = readings, at_s
        return host, vms

    def _host_sample(
        self, vms: int, bridges: Sequence[str], time: dt.datetime, elapsed_s: float
    ) -> HostSample:
        now = read_host(self._processes, bridges)
        before, self._host = self._host or now, now
        ticks = now.ticks - before.ticks
        period_s = elapsed_s if elapsed_s > 0 and before is not now else 1.0
        received = now.receive_bytes - before.receive_bytes
        transmitted = now.transmit_bytes - before.transmit_bytes
        return HostSample(
            time=time,
            cpu_percent=100.0 * (now.busy - before.busy) / ticks if ticks > 0 else 0.0,
            load=now.load,
            memory_total_bytes=now.memory_total_bytes,
            memory_used_bytes=now.memory_used_bytes,
            storage_free_bytes=self._storage.free_bytes(),
            vms_running=vms,
            network_receive_bytes_per_s=max(received, 0) / period_s,
            network_transmit_bytes_per_s=max(transmitted, 0) / period_s,
        )
