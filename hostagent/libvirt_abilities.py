"""All that a host on libvirt reports of itself, from libvirt and from the kernel's files."""

from __future__ import annotations

from pathlib import Path

from events.types.host import Capabilities
from events.types.host_hardware import Hardware, Virtualization
from hostagent.libvirt_capabilities import bridges
from hostagent.libvirt_hardware import hardware
from hostagent.libvirt_inventory import Abilities
from hostagent.libvirt_processes import ProcessTable
from hostagent.libvirt_samples import host_memory_bytes
from hostagent.libvirt_storage import Storage
from hostagent.libvirt_watch import Watch
from hostagent.memory_files import MemoryFiles


async def reported(
    abilities: Abilities, watch: Watch, processes: ProcessTable, storage: Storage
) -> Capabilities:
    """Return what the host can do and what it is made of; raises UnknownStateError."""
    uses_kvm = abilities.virtualization == "kvm"
    root = processes.of_host / "root"
    return Capabilities(
        architecture=abilities.architecture,
        cpus=abilities.cpus,
        cpu_model=abilities.cpu_model,
        cpu_models=abilities.cpu_models,
        memory_bytes=await watch.work(host_memory_bytes),
        machine_types=abilities.machine_types,
        bridges=await watch.work(lambda: bridges(root / "sys")),
        storage_free_bytes=await watch.work(storage.free_bytes),
        hypervisor_version=abilities.hypervisor_version,
        hostname=abilities.host_name,
        storage_id=await watch.work(storage.shared_id),
        virtualization=Virtualization.KVM if uses_kvm else Virtualization.EMULATION,
        swap=await watch.work(MemoryFiles(root).swap),
        hardware=await watch.work(lambda: _hardware(root, abilities)),
    )


def _hardware(root: Path, abilities: Abilities) -> Hardware:
    cpus = root / "proc" / "cpuinfo"
    return hardware(root, cpus, abilities.capabilities_xml, abilities.versions)
