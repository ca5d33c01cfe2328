"""The parts of a domain's XML that say how its processors and memory lie on those of the host."""

from __future__ import annotations

from collections.abc import Iterable

from lxml import etree

from events.types.run_spec import RunSpec, VmConfiguration
from events.types.vm_tuning import CpuPin, members

_KIB = 1024


def memory_backing(root: etree._Element, configuration: VmConfiguration) -> None:
    """Take all of the memory of huge pages, where that is asked for."""
    size = configuration.tuning.huge_page_bytes
    if size is None:
        return
    pages = etree.SubElement(etree.SubElement(root, "memoryBacking"), "hugepages")
    etree.SubElement(pages, "page", size=str(size // _KIB), unit="KiB")


def cpu_and_memory_places(root: etree._Element, spec: RunSpec) -> None:
    """Say on which of the host's CPUs virtual ones run, and of which nodes memory is taken."""
    tuning = spec.configuration.tuning
    pin(root, spec.dedicated.pins if spec.dedicated is not None else tuning.pins)
    bound = [(cell, node) for cell, node in enumerate(tuning.numa_nodes) if node.host_nodes]
    if not bound:
        return
    nodes = etree.SubElement(root, "numatune")
    for cell, node in bound:
        attributes = {"cellid": str(cell), "mode": str(node.mode), "nodeset": node.host_nodes}
        etree.SubElement(nodes, "memnode", attributes)


def pin(root: etree._Element, pins: Iterable[CpuPin]) -> None:
    """Pin virtual CPUs so, in place of what was."""
    places = root.find("cputune")
    if places is not None:
        for former in places.findall("vcpupin"):
            places.remove(former)
    for each in pins:
        if places is None:
            places = etree.SubElement(root, "cputune")
        etree.SubElement(places, "vcpupin", vcpu=str(each.vcpu), cpuset=each.cpus)


def guest_nodes(processor: etree._Element, configuration: VmConfiguration) -> None:
    """Say which NUMA nodes the guest sees."""
    if not configuration.tuning.numa_nodes:
        return
    numa = etree.SubElement(processor, "numa")
    for number, node in enumerate(configuration.tuning.numa_nodes):
        attributes = {"cpus": node.vcpus, "memory": str(node.memory_bytes // _KIB), "unit": "KiB"}
        etree.SubElement(numa, "cell", {"id": str(number), **attributes})


def same_places(root: etree._Element, spec: RunSpec) -> bool:
    """Tell whether a domain's XML binds processors and memory as the run spec does."""
    own = etree.Element("domain")
    memory_backing(own, spec.configuration)
    cpu_and_memory_places(own, spec)
    guest_nodes(etree.SubElement(own, "cpu"), spec.configuration)
    return _places(root) == _places(own)


def _places(root: etree._Element) -> tuple[object, ...]:
    """Return what a domain's XML says of places; sets are compared as numbers."""
    return (
        {pin.get("vcpu"): _set(pin, "cpuset") for pin in root.iterfind("cputune/vcpupin")},
        {
            node.get("cellid"): (node.get("mode"), _set(node, "nodeset"))
            for node in root.iterfind("numatune/memnode")
        },
        {
            cell.get("id"): (_set(cell, "cpus"), cell.get("memory"))
            for cell in root.iterfind("cpu/numa/cell")
        },
        [page.get("size") for page in root.iterfind("memoryBacking/hugepages/page")],
        # Further ways to bind them, which no run spec asks for.
        [each.tag for each in root.iterfind("cputune/*") if each.tag != "vcpupin"],
        root.find("numatune/memory") is not None,
    )


def _set(element: etree._Element, name: str) -> frozenset[int] | None:
    try:
        return members(element.get(name, ""))
    except ValueError:
        return None
