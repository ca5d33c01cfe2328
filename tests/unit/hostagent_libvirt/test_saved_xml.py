"""Saved memory is restored only into the run, and with the disks, that it belongs to."""

import msgspec
import pytest
from lxml import etree

from events.types.run_spec import RunSpec
from events.types.vm_tuning import CpuPin, Dedicated
from hostagent.domain_xml import domain_xml
from hostagent.libvirt_xml import (
    UnusableMemoryError,
    noted_versions,
    ownership,
    restored_xml,
    saved_ownership,
    with_disk_versions,
)
from tests.unit.hostagent_libvirt.specs import CONSOLE, DATA, FACTS, STORAGE, SYSTEM, VM, a_spec

VERSIONS = {"volumes/d1.qcow2": "1073741824-1700000000000000001", "volumes/d2.qcow2": "77-2"}
LATER = msgspec.structs.replace(CONSOLE, password="Other-2")


def saved(spec: RunSpec | None = None) -> str:
    return with_disk_versions(domain_xml(spec or a_spec(), FACTS, CONSOLE), VERSIONS)


def restore(xml: str, spec: RunSpec, versions: dict[str, str] | None = None) -> str:
    return restored_xml(
        xml,
        spec,
        storage_folder=STORAGE,
        versions=VERSIONS if versions is None else versions,
        console=LATER,
    )


def test_the_next_incarnation_takes_the_memory_over() -> None:
    xml = restore(saved(), a_spec(incarnation=4, name="renamed"))
    root = etree.fromstring(xml)
    owner = saved_ownership(xml)
    assert owner is not None
    assert (owner.vm, owner.incarnation) == (VM, 4)
    # the guest's own strings and its devices are those of its boot
    strings = [entry.text for entry in root.iterfind("sysinfo/oemStrings/entry")]
    assert strings[0] == "chronovisor.incarnation=3"
    before = etree.fromstring(saved())
    assert [each.tag for each in root.iterfind("devices/*")] == [
        each.tag for each in before.iterfind("devices/*")
    ]
    assert "Other-2" in xml
    assert "Secret-1" not in xml
    assert len(root.findall("metadata")) == 1
    # the versions are for the next suspend to note
    assert set(noted_versions(xml).values()) == {""}


def test_noting_the_versions_makes_the_xml_no_longer() -> None:
    """libvirt rewrites the XML of saved memory in the room that it had."""
    spec = a_spec()
    root = etree.tostring(etree.fromstring(domain_xml(spec, FACTS, CONSOLE)), encoding="unicode")
    assert len(saved(spec)) == len(root)
    assert noted_versions(saved(spec)) == VERSIONS


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (a_spec(incarnation=3), "run 3"),
        (a_spec(incarnation=2), "run 3"),
        (a_spec(incarnation=4, vm=VM.replace("2a", "2b")), "not this VM's"),
        (a_spec(incarnation=4, disks=(SYSTEM,)), "other disks"),
        (
            a_spec(incarnation=4, disks=(SYSTEM, msgspec.structs.replace(DATA, volume="x"))),
            "other disks",
        ),
    ],
)
def test_memory_of_something_else_is_refused(spec: RunSpec, why: str) -> None:
    with pytest.raises(UnusableMemoryError, match=why):
        restore(saved(), spec)


@pytest.mark.parametrize(
    "versions",
    [{}, {**VERSIONS, "volumes/d2.qcow2": "77-3"}, {**VERSIONS, "volumes/d1.qcow2": ""}],
)
def test_a_disk_that_moved_on_is_noticed(versions: dict[str, str]) -> None:
    with pytest.raises(UnusableMemoryError, match="was written to"):
        restore(saved(), a_spec(incarnation=4), versions)


def test_memory_without_versions_is_not_trusted() -> None:
    unfinished = domain_xml(a_spec(), FACTS, CONSOLE)
    with pytest.raises(UnusableMemoryError, match="was written to"):
        restore(unfinished, a_spec(incarnation=4), dict.fromkeys(VERSIONS, ""))


def test_a_copy_of_our_element_in_anothers_domain_is_not_ours() -> None:
    own = f"<domain><vm>{VM}</vm><incarnation>3</incarnation><first_host>h</first_host></domain>"
    owner = ownership(own, VM)
    assert owner is not None
    assert owner.incarnation == 3
    assert ownership(own, VM.replace("2a", "2b")) is None
    for bad in ("", "<domain/>", "no xml", own.replace(">3<", ">x<"), own.replace(">3<", ">³<")):
        assert ownership(bad, VM) is None


def test_entities_are_not_followed() -> None:
    bomb = (
        '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        f"<domain><vm>{VM}</vm><incarnation>3</incarnation><first_host>&x;</first_host></domain>"
    )
    owner = ownership(bomb, VM)
    assert owner is None or owner.first_host == ""


def test_memory_that_is_not_ours_is_refused() -> None:
    for xml in ("<domain/>", f"<domain><uuid>{VM}</uuid></domain>"):
        with pytest.raises(UnusableMemoryError):
            restore(xml, a_spec(incarnation=4))


def test_a_run_that_goes_on_has_cpus_of_its_own_where_it_does() -> None:
    def own(cpus: str) -> Dedicated:
        return Dedicated(pins=(CpuPin(vcpu=0, cpus=cpus),), cpus=cpus)

    before = msgspec.structs.replace(a_spec(), dedicated=own("3"))
    spec = msgspec.structs.replace(a_spec(incarnation=4), dedicated=own("6"))
    root = etree.fromstring(restore(saved(before), spec))
    assert [pin.get("cpuset") for pin in root.iterfind("cputune/vcpupin")] == ["6"]
