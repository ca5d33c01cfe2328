"""Made-up histories for tests and benchmarks of the projections: events as a log stores them."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import uuid
from collections.abc import AsyncIterator, Sequence

import psycopg

from events.codec import CODEC
from events.envelope import Recorded, Stored
from events.stream.port import Batch, Cursor, OtherLogError
from events.types import cluster, data_center, host, operation, vm
from events.types.base import Event
from events.types.cluster_requirements import Requirements
from events.types.run_spec import Disk, Nic, RunSpec, VmConfiguration
from events.types.vm_jobs import VmDisksReady

GIB = 1024**3
START_TIME = dt.datetime(2026, 11, 1, 8, 0, tzinfo=dt.UTC)
CAPABILITIES = host.Capabilities(
    architecture="x86_64",
    cpus=64,
    cpu_model="Skylake-Server",
    cpu_models=("Nehalem", "Skylake-Server"),
    memory_bytes=512 * GIB,
    machine_types=("pc-q35-7.2",),
    bridges=("br0",),
)


class History:
    """A log that is written event by event, without any rules: the test says what happened."""

    def __init__(self, seed: int = 1) -> None:
        self.events: list[Stored] = []
        self.written = 0
        self.random = random.Random(seed)
        self.log_id = self.new_uuid()
        self.time = START_TIME
        self.actor = "admin:bootstrap"
        self.command = self.new_uuid()
        self.correlation: str | None = None
        self._versions: dict[str, int] = {}

    def new_uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    def new_id(self) -> str:
        return str(self.new_uuid())

    def add(self, stream: str, *events: Event, after_s: float = 1.0) -> Stored:
        """Append events to a stream, the first one `after_s` after the last event."""
        for event in events:
            self.time += dt.timedelta(seconds=after_s)
            name, schema, payload = CODEC.encode(event)
            version = self._versions[stream] = self._versions.get(stream, 0) + 1
            self.events.append(
                Stored(
                    position=self.written + len(self.events) + 1,
                    stream=stream,
                    version=version,
                    name=name,
                    schema=schema,
                    payload=payload,
                    time=self.time,
                    actor=self.actor,
                    command=self.command,
                    correlation=self.correlation,
                )
            )
        return self.events[-1]

    def recorded(self, after: int = 0) -> list[Recorded]:
        return [CODEC.decode(event) for event in self.events[after:]]

    # ---------------------------------------------------------------------- ready-made chapters

    def make_data_center(self, name: str = "Default") -> str:
        object_id = self.new_id()
        created = data_center.DataCenterCreated(name=name, compatibility_version="4.8")
        self.add(f"data_center/{object_id}", created)
        return object_id

    def make_cluster(self, center: str, name: str = "Default") -> str:
        object_id = self.new_id()
        created = cluster.ClusterCreated(
            name=name,
            data_center=center,
            architecture="x86_64",
            cpu_model="Nehalem",
            machine_type="pc-q35-7.2",
            compatibility_version="4.8",
        )
        self.add(f"cluster/{object_id}", created)
        return object_id

    def make_host(self, center: str, where: str, name: str = "host1", *, up: bool = True) -> str:
        object_id = self.new_id()
        stream = f"host/{object_id}"
        added = host.HostAdded(name=name, cluster=where, data_center=center, approved=True)
        self.add(stream, added)
        if up:
            self.join(object_id, name)
            self.session(object_id, name)
            self.add(stream, host.HostCapabilitiesReported(capabilities=CAPABILITIES))
        return object_id

    def join(self, host_id: str, name: str) -> None:
        asked = host.HostJoinRequested(
            name=name, token="t", public_key_sha256="ab" * 32, hardware="hw", signing_request="csr"
        )
        self.add(f"host/{host_id}", asked)

    def session(self, host_id: str, name: str, *, boot: str = "boot-1") -> None:
        session = self.new_id()
        started = host.HostSessionStarted(name=name, session=session, boot=boot, protocol=1)
        self.add(f"host/{host_id}", started)

    def silence(self, host_id: str, name: str) -> None:
        silent = host.HostSilent(name=name, last_contact=self.time, timeout_s=60)
        self.add(f"host/{host_id}", silent)

    def make_vm(self, center: str, where: str, name: str = "web01", *, disks: int = 1) -> str:
        object_id = self.new_id()
        created = vm.VmCreated(
            name=name,
            data_center=center,
            cluster=where,
            configuration=self.configuration(disks=disks),
        )
        self.add(f"vm/{object_id}", created)
        return object_id

    def configuration(self, *, disks: int = 1, memory_bytes: int = GIB) -> VmConfiguration:
        return VmConfiguration(
            memory_bytes=memory_bytes,
            disks=tuple(
                Disk(
                    id=self.new_id(),
                    name=f"disk{number}",
                    size_bytes=10 * GIB,
                    volume=f"{self.new_id()}.qcow2",
                    pci_bus=16 + number,
                    bootable=number == 0,
                )
                for number in range(disks)
            ),
            nics=(Nic(id=self.new_id(), name="nic1", mac=self.mac(), bridge="br0", pci_bus=15),),
        )

    def mac(self) -> str:
        return "56:6f:" + ":".join(f"{self.random.randrange(256):02x}" for _ in range(4))

    def ready(self, vm_id: str, name: str = "web01") -> None:
        self.add(f"vm/{vm_id}", VmDisksReady(name=name))

    def placed(
        self,
        vm_id: str,
        host_id: str,
        name: str = "web01",
        host_name: str = "host1",
        *,
        incarnation: int = 1,
        configuration: VmConfiguration | None = None,
    ) -> None:
        spec = RunSpec(
            vm=vm_id,
            name=name,
            incarnation=incarnation,
            first_host=host_id,
            configuration=configuration or self.configuration(),
            architecture="x86_64",
            machine_type="pc-q35-7.2",
            cpu_model="Nehalem",
        )
        event = vm.VmPlaced(
            name=name, host=host_id, host_name=host_name, incarnation=incarnation, spec=spec
        )
        self.add(f"vm/{vm_id}", event)

    def runs(
        self,
        vm_id: str,
        host_id: str,
        name: str = "web01",
        host_name: str = "host1",
        *,
        incarnation: int = 1,
        configuration: VmConfiguration | None = None,
    ) -> None:
        """A whole start, from the request to the guest's first words."""
        stream = f"vm/{vm_id}"
        self.add(stream, vm.VmStartRequested(name=name))
        self.placed(
            vm_id, host_id, name, host_name, incarnation=incarnation, configuration=configuration
        )
        self.add(
            stream,
            vm.VmStarted(name=name, host=host_id, host_name=host_name, incarnation=incarnation),
            vm.VmUp(name=name, host=host_id, host_name=host_name, incarnation=incarnation),
            vm.VmGuestReported(
                incarnation=incarnation, hostname=name, addresses=("10.0.0.7", "fe80::1")
            ),
        )

    def down(
        self,
        vm_id: str,
        host_id: str,
        name: str = "web01",
        host_name: str = "host1",
        *,
        incarnation: int = 1,
        reason: vm.DownReason = vm.DownReason.GUEST,
        detail: str = "",
    ) -> None:
        event = vm.VmDown(
            name=name,
            host=host_id,
            host_name=host_name,
            incarnation=incarnation,
            reason=reason,
            detail=detail,
        )
        self.add(f"vm/{vm_id}", event)

    def begin_operation(
        self, target: str, name: str = "web01", kind: str = "vm.start", steps: Sequence[str] = ()
    ) -> str:
        """Begin an operation as the current command's."""
        self.command = self.new_uuid()
        object_id = str(self.command)
        self.correlation = object_id
        started = operation.OperationStarted(
            kind=kind, target=target, name=name, steps=tuple(steps or ("place", "boot"))
        )
        self.add(f"operation/{object_id}", started)
        return object_id

    def end(self, operation_id: str, target: str, name: str = "web01") -> None:
        ended = operation.OperationEnded(
            kind="vm.start", target=target, name=name, outcome=operation.Outcome.SUCCEEDED
        )
        self.add(f"operation/{operation_id}", ended)


RENAMING_STEPS = 40


def cluster_renamed(name: str, previous_name: str, center: str) -> cluster.ClusterUpdated:
    """Return the event that gives a cluster of `make_cluster` another name, and no more."""
    return cluster.ClusterUpdated(
        name=name,
        previous_name=previous_name,
        data_center=center,
        description="",
        cpu_model="Nehalem",
        machine_type="pc-q35-7.2",
        compatibility_version="4.8",
        requirements=Requirements(),
    )


class Life:
    """A seeded life of a data center, step by step: VMs come, run, fail and go."""

    def __init__(
        self,
        history: History,
        vms: int,
        hosts: int,
        center: str = "Default",
        *,
        renaming: bool = False,
    ) -> None:
        self.history = history
        self.renaming = renaming
        self.center = history.make_data_center(center)
        self.clusters = [history.make_cluster(self.center, f"cluster{n}") for n in range(3)]
        self.names = {
            history.make_host(self.center, self.clusters[n % 3], f"host{n}"): f"host{n}"
            for n in range(hosts)
        }
        self.alive = {
            history.make_vm(self.center, self.clusters[n % 3], f"vm{n}"): f"vm{n}"
            for n in range(vms)
        }
        for vm_id, name in self.alive.items():
            history.ready(vm_id, name)
        self.running: dict[str, tuple[str, int]] = {}
        self._incarnations: dict[str, int] = {}
        self._silent: set[str] = set()
        self._made = vms
        self._steps = 0
        self._keys = list(self.alive)

    def step(self) -> None:
        """Let something happen."""
        history = self.history
        self._steps += 1
        if self.renaming and self._steps % RENAMING_STEPS == 0:
            self._rename(self._steps // RENAMING_STEPS)
        vm_id = history.random.choice(self._keys)
        name, chance = self.alive[vm_id], history.random.random()
        if chance < 0.02:
            self._silence(history.random.choice(list(self.names)))
        elif vm_id in self.running:
            host_id, incarnation = self.running.pop(vm_id)
            reason = history.random.choice(list(vm.DownReason)[:5])
            host_name = self.names[host_id]
            history.down(vm_id, host_id, name, host_name, incarnation=incarnation, reason=reason)
        elif chance < 0.05:
            self._replace(vm_id, name)
        else:
            self._start(vm_id, name)

    def _rename(self, count: int) -> None:
        """Give one of the clusters, or now and then the data center, another name."""
        if count % 4 == 0:
            center = data_center.DataCenterRenamed(name=f"center{count}", previous_name="Default")
            self.history.add(f"data_center/{self.center}", center)
            return
        renamed = cluster_renamed(f"renamed{count}", "cluster", self.center)
        self.history.add(f"cluster/{self.clusters[count % 3]}", renamed)

    def _silence(self, host_id: str) -> None:
        if host_id in self._silent:
            self.history.session(host_id, self.names[host_id])
            self._silent.discard(host_id)
        else:
            self.history.silence(host_id, self.names[host_id])
            self._silent.add(host_id)

    def _replace(self, vm_id: str, name: str) -> None:
        removed = vm.VmRemoved(name=name, cluster=self.clusters[0])
        self.history.add(f"vm/{vm_id}", removed)
        del self.alive[vm_id]
        self._keys.remove(vm_id)
        self._made += 1
        where = self.clusters[self._made % 3]
        fresh = self.history.make_vm(self.center, where, f"vm{self._made}")
        self.alive[fresh] = f"vm{self._made}"
        self._keys.append(fresh)
        self.history.ready(fresh, self.alive[fresh])

    def _start(self, vm_id: str, name: str) -> None:
        history = self.history
        candidates = [h for h in self.names if h not in self._silent]
        if not candidates:
            return
        host_id = history.random.choice(candidates)
        incarnation = self._incarnations[vm_id] = self._incarnations.get(vm_id, 0) + 1
        work = history.begin_operation(f"vm/{vm_id}", name)
        history.runs(vm_id, host_id, name, self.names[host_id], incarnation=incarnation)
        history.end(work, f"vm/{vm_id}", name)
        self.running[vm_id] = (host_id, incarnation)


def busy_history(
    vms: int, events: int, *, hosts: int = 10, seed: int = 1, renaming: bool = False
) -> History:
    """A seeded life of a data center, at least `events` long; `renaming` costs more than others."""
    history = History(seed)
    life = Life(history, vms, hosts, renaming=renaming)
    while len(history.events) < events:
        life.step()
    return history


def write_log(dsn: str, events: Sequence[Stored]) -> None:
    """Put events into a PostgreSQL log as they are, past all rules of appending."""
    columns = "position, stream, version, name, schema, payload, time, actor, command, correlation"
    statement = f"COPY log.log ({columns}) FROM STDIN".encode()
    with psycopg.connect(dsn) as connection, connection.cursor().copy(statement) as copy:
        for event in events:
            copy.write_row([getattr(event, name) for name in columns.split(", ")])


class ListStream:
    """A stream over a list of events that may grow; it ends only by cancellation."""

    def __init__(self, history: History, *, poll_s: float = 0.005) -> None:
        self._history = history
        self._poll_s = poll_s

    async def head(self) -> int:
        return len(self._history.events)

    async def batches(self, after: Cursor, limit: int = 2_000) -> AsyncIterator[Batch]:
        log_id = self._history.log_id
        if after.log_id is not None and after.log_id != log_id:
            raise OtherLogError(after.log_id, log_id)
        position = after.position
        while True:
            events = self._history.events[position : position + limit]
            if events:
                position += len(events)
                yield Batch(events=events, cursor=Cursor(log_id, position))
            else:
                await asyncio.sleep(self._poll_s)
