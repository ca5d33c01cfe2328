"""Events and telemetry that the warehouse's tests take in."""

from __future__ import annotations

import datetime as dt
import uuid

from events.codec import CODEC
from events.envelope import Recorded, Stored
from events.stream.port import Batch, Cursor
from events.types.base import Event
from events.types.host import Capabilities, HostAdded, HostCapabilitiesReported
from events.types.run_spec import Disk, Topology, VmConfiguration
from events.types.vm import DownReason, VmCreated, VmDown, VmPlaced, VmRemoved, VmUp, VmUpdated
from events.wire.agent import HostSample, Telemetry, VmSample

START = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
LOG = uuid.UUID("00000000-0000-4000-8000-000000000001")
MIB = 1024**2
__all__ = ["VmDown", "VmPlaced", "VmUp"]


def stored(position: int, stream: str, event: Event, version: int = 1) -> Stored:
    name, schema, payload = CODEC.encode(event)
    return Stored(
        position=position,
        stream=stream,
        version=version,
        name=name,
        schema=schema,
        payload=payload,
        time=START + dt.timedelta(seconds=position),
        actor="ann",
        command=uuid.UUID(int=position),
    )


def recorded(position: int, stream: str, event: Event) -> Recorded:
    return CODEC.decode(stored(position, stream, event))


def batch(*events: Stored, log_id: uuid.UUID = LOG) -> Batch:
    return Batch(events=events, cursor=Cursor(log_id, events[-1].position, 7))


def configuration(memory_mib: int = 512, cores: int = 2) -> VmConfiguration:
    disk = Disk(id="d1", name="root", size_bytes=10 * MIB, volume="d1.qcow2")
    return VmConfiguration(
        memory_bytes=memory_mib * MIB, topology=Topology(cores=cores), disks=(disk,)
    )


def vm_created(name: str = "web01", memory_mib: int = 512) -> VmCreated:
    return VmCreated(
        name=name, data_center="dc1", cluster="c1", configuration=configuration(memory_mib)
    )


def vm_updated(name: str = "web01", memory_mib: int = 1024) -> VmUpdated:
    return VmUpdated(
        name=name,
        previous_name="web01",
        data_center="dc1",
        configuration=configuration(memory_mib),
    )


def vm_removed(name: str = "web01") -> VmRemoved:
    return VmRemoved(name=name, cluster="c1")


def vm_up(name: str = "web01") -> VmUp:
    return VmUp(name=name, host="h1", host_name="node1", incarnation=1)


def vm_down(reason: DownReason = DownReason.CRASHED, name: str = "web01") -> VmDown:
    return VmDown(name=name, host="h1", host_name="node1", incarnation=1, reason=reason)


def host_added(name: str = "node1") -> HostAdded:
    return HostAdded(name=name, cluster="c1", data_center="dc1")


def host_reported(cpus: int = 8) -> HostCapabilitiesReported:
    return HostCapabilitiesReported(
        capabilities=Capabilities(
            architecture="x86_64",
            cpus=cpus,
            cpu_model="EPYC",
            memory_bytes=64 * 1024**3,
            machine_types=("pc-q35-7.2",),
        )
    )


def telemetry(
    sequence: int, *, host: str = "h1", boot: str = "b1", vms: int = 1, dropped: int = 0
) -> Telemetry:
    time = START + dt.timedelta(seconds=15 * sequence)
    return Telemetry(
        host=host,
        boot=boot,
        sequence=sequence,
        dropped=dropped,
        hosts=(
            HostSample(
                time=time,
                cpu_percent=12.5,
                load=0.5,
                memory_total_bytes=64 * MIB,
                memory_used_bytes=32 * MIB,
                storage_free_bytes=MIB,
                vms_running=vms,
            ),
        ),
        vms=tuple(
            VmSample(
                vm=f"vm{number}",
                incarnation=1,
                time=time,
                cpu_percent=50.0,
                memory_bytes=512 * MIB,
                memory_used_bytes=100 * MIB,
            )
            for number in range(vms)
        ),
    )
