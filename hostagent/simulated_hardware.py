"""What a simulated host is made of: a plain server with its CPUs and its memory."""

from __future__ import annotations

import msgspec

from events.types.host import Capabilities
from events.types.host_hardware import (
    CpuTopology,
    Hardware,
    HostNic,
    MdevType,
    NumaNode,
    PciDevice,
    UsbDevice,
    Versions,
)

TSC_HZ = 2_400_000_000
_SOCKETS, _THREADS = 2, 2
_FUNCTIONS = 2


def described(able: Capabilities, name: str) -> Capabilities:
    """Return what a host of that name tells of itself."""
    hardware = able.hardware or _hardware(able)
    return msgspec.structs.replace(able, hostname=name, hardware=hardware)


def _hardware(able: Capabilities) -> Hardware:
    """Return two sockets with a NUMA node each; one, with no threads, of an odd number of CPUs."""
    even = able.cpus % (_SOCKETS * _THREADS) == 0
    sockets, threads = (_SOCKETS, _THREADS) if even else (1, 1)
    each = able.cpus // sockets
    cores = each // threads
    return Hardware(
        cpu_vendor="Simulated",
        tsc_hz=TSC_HZ,
        cpu_flags=("nx", "vmx"),
        topology=CpuTopology(sockets=sockets, cores=cores, threads=threads),
        cores=" ".join(
            ",".join(str(core + cores * thread + socket * each) for thread in range(threads))
            for socket in range(sockets)
            for core in range(cores)
        ),
        numa_nodes=tuple(
            NumaNode(
                node=node,
                cpus=f"{node * each}-{(node + 1) * each - 1}",
                memory_bytes=able.memory_bytes // sockets,
            )
            for node in range(sockets)
        ),
        nics=(HostNic(name="eth0", mac="02:00:00:00:00:01", up=True, speed_mbps=25_000),),
        iommu=True,
        devices=(
            PciDevice(
                address="0000:17:00.0",
                class_code="020000",
                vendor="15b3",
                product="1017",
                driver="mlx5_core",
                iommu_group=17,
                virtual_functions=_FUNCTIONS,
                virtual_functions_max=8,
            ),
            *(
                PciDevice(
                    address=f"0000:17:00.{number}",
                    class_code="020000",
                    vendor="15b3",
                    product="1018",
                    driver="mlx5_core",
                    iommu_group=17 + number,
                    physical_function="0000:17:00.0",
                )
                for number in range(1, _FUNCTIONS + 1)
            ),
            PciDevice(
                address="0000:65:00.0",
                class_code="030200",
                vendor="10de",
                product="20f1",
                driver="vfio-pci",
                iommu_group=65,
            ),
            PciDevice(
                address="0000:66:00.0",
                class_code="030200",
                vendor="10de",
                product="1eb8",
                driver="nvidia",
                iommu_group=66,
                mdev_types=(
                    MdevType(
                        id="nvidia-222",
                        name="GRID T4-1B",
                        description="num_heads=4, frl_config=45, framebuffer=1024M",
                        available=16,
                    ),
                    MdevType(
                        id="nvidia-234",
                        name="GRID T4-16Q",
                        description="num_heads=4, frl_config=60, framebuffer=16384M",
                        available=1,
                    ),
                ),
            ),
        ),
        usb_devices=(UsbDevice(address="1-1", vendor="0529", product="0001", name="AKS HASP"),),
        versions=Versions(kernel="simulated", operating_system="Simulated"),
    )
