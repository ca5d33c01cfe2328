"""Run specs and ids for the agent's tests."""

import uuid

from events.types.job import Job, JobKind
from events.types.run_spec import Disk, Nic, RunSpec, VmConfiguration
from events.wire.agent import IntentVm, Role

VM = "018f0000-0000-7000-8000-000000000001"
OTHER = "018f0000-0000-7000-8000-000000000002"


def a_spec(
    vm: str = VM,
    incarnation: int = 1,
    *,
    disks: tuple[Disk, ...] = (),
    restore_from: str | None = None,
) -> RunSpec:
    tail = uuid.uuid5(uuid.NAMESPACE_OID, vm).hex
    nic = Nic(
        id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"nic/{vm}")),
        name="nic1",
        mac=f"56:6f:1a:{tail[0:2]}:{tail[2:4]}:{tail[4:6]}",
        bridge="br0",
        pci_bus=16,
    )
    return RunSpec(
        vm=vm,
        name=f"web-{vm[-2:]}",
        incarnation=incarnation,
        first_host="host01",
        configuration=VmConfiguration(memory_bytes=256 * 1024**2, nics=(nic,), disks=disks),
        architecture="x86_64",
        machine_type="pc-q35-7.2",
        cpu_model="qemu64",
        restore_from=restore_from,
    )


def run_item(
    vm: str = VM,
    incarnation: int = 1,
    *,
    started: bool = False,
    position: int = 10,
    role: Role = Role.RUN,
    **spec: object,
) -> IntentVm:
    return IntentVm(
        vm=vm,
        incarnation=incarnation,
        role=role,
        position=position,
        started=started,
        spec=a_spec(vm, incarnation, **spec),  # type: ignore[arg-type]
    )


def a_job(kind: JobKind, *, vm: str = VM, incarnation: int = 1, **more: object) -> Job:
    return Job(
        id=str(uuid.uuid4()),
        kind=kind,
        vm=vm,
        incarnation=incarnation,
        **more,  # type: ignore[arg-type]
    )
