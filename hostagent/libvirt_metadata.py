"""Our element in a domain's metadata, by which a domain is known as ours after anything. Pure."""

from __future__ import annotations

import re

from lxml import etree

from events.types.run_spec import RunSpec

METADATA_NAMESPACE = "urn:chronovisor:domain:1"
METADATA_PREFIX = "chronovisor"
OWN = f"{{{METADATA_NAMESPACE}}}"
DISK_TAG = f"{OWN}disk"
NO_VERSION = "-" * 40
XML_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """Return the text without what XML cannot hold."""
    return XML_UNUSABLE.sub("\ufffd", text)


def metadata(spec: RunSpec) -> etree._Element:
    """Return the `<metadata>` element of a run."""
    holder = etree.Element("metadata")
    own = etree.SubElement(holder, f"{OWN}domain", nsmap={METADATA_PREFIX: METADATA_NAMESPACE})
    values = {
        "vm": spec.vm,
        "incarnation": str(spec.incarnation),
        "first_host": spec.first_host,
        "name": spec.name,
    }
    for tag, value in values.items():
        etree.SubElement(own, f"{OWN}{tag}").text = printable(value)
    for disk in spec.configuration.disks:
        # Room for what a suspend notes: libvirt rewrites a saved domain's XML only in its place.
        etree.SubElement(own, DISK_TAG, version=NO_VERSION).text = printable(disk.volume)
    return holder
