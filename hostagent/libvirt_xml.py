"""What is read from libvirt's XML: whose a domain is, and what a saved one was made of.

Pure. XML that comes from a file in the storage folder is not trusted: it is parsed without
entities and network, and every part of it that matters is compared with the run spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

import msgspec
from lxml import etree

from events.types.run_spec import RunSpec
from events.types.vm_tuning import Dedicated
from hostagent.domain_tuning import pin
from hostagent.domain_xml import Console, console_time, storage_path
from hostagent.libvirt_metadata import DISK_TAG, NO_VERSION, OWN, metadata


class UnusableMemoryError(ValueError):
    """Saved memory must not be restored into this run; the text is for people."""


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """What our metadata element says about a domain."""

    vm: str
    incarnation: int
    first_host: str = ""


def parse(xml: str) -> etree._Element:
    """Return the root of an XML text; raises ValueError if it is none."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        return etree.fromstring(xml.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"not XML: {error}") from error


def ownership(own_element_xml: str, uuid: str) -> Ownership | None:
    """Read our metadata element; None if it was written for another domain.

    A stranger who copies a domain's XML copies our element too: only together with the VM's own
    uuid does it say that the domain is ours.
    """
    try:
        own = parse(own_element_xml)
    except ValueError:
        return None
    # libvirt hands the element out without its namespace, and inside a domain's XML with it.
    texts = {etree.QName(each).localname: each.text or "" for each in own.iterchildren("*")}
    incarnation = texts.get("incarnation", "")
    if texts.get("vm") != uuid or not (incarnation.isascii() and incarnation.isdecimal()):
        return None
    first_host = texts.get("first_host", "")
    return Ownership(vm=uuid, incarnation=int(incarnation), first_host=first_host)


def disk_files(root: etree._Element) -> tuple[str, ...]:
    """Return the absolute paths of the domain's disks, in their order, without CD drives."""
    sources = root.iterfind("devices/disk[@device='disk']/source")
    return tuple(str(source.get("file", "")) for source in sources)


def with_disk_versions(saved_xml: str, versions: Mapping[str, str]) -> str:
    """Return a saved domain's XML with the versions of its volumes noted in our metadata.

    It is no longer than before: the place for the versions was made when the domain was.
    """
    root = parse(saved_xml)
    for disk in root.iterfind(f"metadata/{OWN}domain/{DISK_TAG}"):
        version = versions.get(disk.text or "", "")
        disk.set("version", version.ljust(len(NO_VERSION), "-"))
    return etree.tostring(root, encoding="unicode")


def on_own_cpus(xml: str, own: Dedicated) -> str:
    """Return a domain's XML with its virtual CPUs pinned to other CPUs, which are its own."""
    root = parse(xml)
    pin(root, own.pins)
    return etree.tostring(root, encoding="unicode")


def noted_versions(saved_xml: str) -> dict[str, str]:
    """Return the volumes of a managed domain, with the versions that were noted when it was saved
    ("" if none were).
    """
    disks = parse(saved_xml).iterfind(f"metadata/{OWN}domain/{DISK_TAG}")
    return {disk.text or "": (disk.get("version") or "").rstrip("-") for disk in disks}


def saved_ownership(saved_xml: str) -> Ownership | None:
    """Return whose memory it is that was saved with this XML."""
    root = parse(saved_xml)
    own = root.find(f"metadata/{OWN}domain")
    if own is None:
        return None
    return ownership(etree.tostring(own, encoding="unicode"), root.findtext("uuid") or "")


def restored_xml(
    saved_xml: str,
    spec: RunSpec,
    *,
    storage_folder: str,
    versions: Mapping[str, str],
    console: Console,
) -> str:
    """Return the XML to restore saved memory with, as the incarnation that `spec` names.

    The devices are the saved ones (the memory belongs to them); metadata, the console's password
    and the CPUs that are the run's own are new. Raises UnusableMemoryError if the memory is another
    VM's or a later run's, if the VM has other disks now, or if a disk was written to since:
    `versions` are those of now, by volume.
    """
    root = parse(saved_xml)
    owner = saved_ownership(saved_xml)
    if owner is None or owner.vm != spec.vm:
        raise UnusableMemoryError("the saved memory is not this VM's")
    if owner.incarnation >= spec.incarnation:
        raise UnusableMemoryError(
            f"the memory was saved by run {owner.incarnation}, this is only run {spec.incarnation}"
        )
    wanted = {storage_path(storage_folder, disk.volume) for disk in spec.configuration.disks}
    files = {str(PurePosixPath(file)) for file in disk_files(root)}
    if files != wanted:
        raise UnusableMemoryError("the memory was saved with other disks than the VM has now")
    noted = noted_versions(saved_xml)
    for disk in spec.configuration.disks:
        if not noted.get(disk.volume) or noted[disk.volume] != versions.get(disk.volume):
            raise UnusableMemoryError(
                f"disk {disk.name!r} was written to after the memory was saved"
            )
    previous = root.find("metadata")
    if previous is None:
        raise UnusableMemoryError("the saved memory is not this VM's")
    root.replace(previous, metadata(spec))
    if spec.dedicated is not None:
        pin(root, spec.dedicated.pins)
    for graphics in root.iterfind("devices/graphics"):
        graphics.set("passwd", console.password)
        graphics.set("passwdValidTo", console_time(console.valid_to))
    return etree.tostring(root, encoding="unicode")
