"""From a run spec to a domain: what must be said, what must never move, what is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from events.types.run_spec import Boot, DiskBus, FixedPciBus, RunSpec
from events.types.vm_tuning import CpuPin, CpuPolicy, Dedicated, GuestNumaNode, NumaMode, Tuning
from hostagent.domain_tuning import same_places
from hostagent.domain_xml import (
    LAST_PCI_BUS,
    HostFacts,
    UnusableSpecError,
    domain_xml,
    files_of,
    storage_path,
)
from hostagent.libvirt_xml import on_own_cpus, parse
from tests.contract.driver_contract import with_configuration
from tests.unit.hostagent_libvirt.specs import (
    CONSOLE,
    DATA,
    FACTS,
    HOST,
    NIC,
    STORAGE,
    SYSTEM,
    VM,
    a_disk,
    a_spec,
)

OWN = {"c": "urn:chronovisor:domain:1"}


def build(spec: RunSpec, facts: HostFacts = FACTS) -> etree._Element:
    return etree.fromstring(domain_xml(spec, facts, CONSOLE))


def found(root: etree._Element, path: str) -> str:
    """The text, or the attribute, at a path; there must be exactly one."""
    results = root.xpath(path, namespaces=OWN)
    assert isinstance(results, list)
    assert len(results) == 1, f"{path}: {results}"
    (result,) = results
    return str(result.text if isinstance(result, etree._Element) else result)


def count(root: etree._Element, path: str) -> int:
    """How many elements are at a path."""
    results = root.xpath(path)
    assert isinstance(results, list)
    return len(results)


def places(root: etree._Element) -> dict[str, tuple[tuple[str, str], ...]]:
    """Where each device is, by what names it for good."""
    result = {}
    for device in root.iterfind("devices/*"):
        address = device.find("address")
        alias = device.find("alias")
        name = alias.get("name") if alias is not None else device.get("index", "")
        key = f"{device.tag} {device.get('type')} {device.get('model')} {name}"
        if address is not None:
            result[key] = tuple(sorted((str(k), str(v)) for k, v in address.attrib.items()))
    return result


class TestIdentity:
    def test_a_domain_is_named_by_its_vm(self) -> None:
        root = build(a_spec())
        assert found(root, "name") == VM
        assert found(root, "uuid") == VM
        assert found(root, "@type") == "qemu"
        assert found(root, "metadata/c:domain/c:vm") == VM
        assert found(root, "metadata/c:domain/c:incarnation") == "3"
        assert found(root, "metadata/c:domain/c:first_host") == HOST
        assert found(root, "metadata/c:domain/c:name") == "web01"

    def test_the_guest_can_read_who_it_is(self) -> None:
        root = build(a_spec())
        assert found(root, "os/smbios/@mode") == "sysinfo"
        assert found(root, "sysinfo/system/entry[@name='uuid']") == VM
        assert found(root, "sysinfo/system/entry[@name='serial']") == VM
        known = build(msgspec.structs.replace(a_spec(), serial="ABC <1>"))
        assert found(known, "sysinfo/system/entry[@name='serial']") == "ABC <1>"
        strings = [entry.text for entry in root.iterfind("sysinfo/oemStrings/entry")]
        assert strings == ["chronovisor.incarnation=3", f"chronovisor.first_host={HOST}"]

    def test_kvm_where_the_host_has_it(self) -> None:
        root = build(a_spec(), msgspec.structs.replace(FACTS, virtualization="kvm"))
        assert found(root, "@type") == "kvm"

    @pytest.mark.parametrize("vm", ["", "web01", VM.upper(), f"vm/{VM}", VM.replace("-", "")])
    def test_a_vm_that_is_no_uuid_is_refused(self, vm: str) -> None:
        with pytest.raises(UnusableSpecError):
            build(a_spec(vm=vm))

    @given(st.text(max_size=200))
    def test_any_name_comes_back_as_it_is(self, name: str) -> None:
        text = found(build(a_spec(name=name)), "metadata/c:domain/c:name/text()") if name else ""
        unusable = {c for c in name if ord(c) < 0x20 and c not in "\t\n\r"} | {"\ufffe", "\uffff"}
        # XML reads every line end as a newline, and cannot hold some characters at all.
        expected = "".join("\ufffd" if c in unusable else c for c in name)
        assert text.replace("\r", "\n") == expected.replace("\r", "\n")


class TestBalloon:
    def test_a_vm_has_a_balloon_that_tells_what_the_guest_uses(self) -> None:
        root = build(a_spec())
        assert found(root, "devices/memballoon/@model") == "virtio"
        assert found(root, "devices/memballoon/stats/@period") == "10"
        assert found(root, "devices/memballoon/address/@bus") == f"{FixedPciBus.BALLOON:#04x}"

    def test_one_without_keeps_every_other_device_where_it_is(self) -> None:
        spec = a_spec()
        root = build(with_configuration(spec, ballooning=False))
        assert found(root, "devices/memballoon/@model") == "none"
        assert count(root, "devices/memballoon/*") == 0
        before = places(build(spec))
        after = places(root)
        assert set(before) - set(after) == {"memballoon None virtio "}
        assert {name: before[name] for name in after} == after


class TestMachine:
    def test_what_it_is_made_of(self) -> None:
        root = build(a_spec())
        assert found(root, "os/type/@machine") == "pc-q35-7.2"
        assert found(root, "cpu/@mode") == "custom"
        assert found(root, "cpu/@match") == "exact"
        assert found(root, "cpu/model") == "Westmere"
        assert found(root, "cpu/model/@fallback") == "forbid"
        assert (found(root, "memory"), found(root, "memory/@unit")) == (str(512 << 20), "b")
        assert found(root, "vcpu") == "4"
        assert (found(root, "cpu/topology/@sockets"), found(root, "cpu/topology/@cores")) == (
            "2",
            "2",
        )
        assert found(root, "clock/@offset") == "variable"
        assert found(root, "clock/@basis") == "utc"

    @pytest.mark.parametrize("machine", ["q35", "pc", "pc-i440fx-7.2", "pc-q35-7.2 ", ""])
    def test_only_exact_machine_types(self, machine: str) -> None:
        with pytest.raises(UnusableSpecError, match="exact"):
            build(a_spec(machine_type=machine))

    def test_its_ends(self) -> None:
        root = build(a_spec())
        assert found(root, "on_poweroff") == "destroy"
        assert found(root, "on_reboot") == "restart"
        assert found(root, "on_crash") == "destroy"

    def test_the_console_is_on_loopback_behind_an_expiring_password(self) -> None:
        root = build(a_spec())
        assert found(root, "devices/graphics/@passwd") == "Secret-1"
        assert found(root, "devices/graphics/@passwdValidTo") == "2026-03-01T12:00:00"
        assert found(root, "devices/graphics/listen/@address") == "127.0.0.1"
        assert "Secret" not in repr(CONSOLE)


class TestDisks:
    def test_a_disk(self) -> None:
        root = build(a_spec())
        disk = f"devices/disk[alias/@name='ua-{SYSTEM.id}']"
        assert found(root, f"{disk}/source/@file") == f"{STORAGE}/volumes/d1.qcow2"
        assert found(root, f"{disk}/serial") == SYSTEM.id
        assert found(root, f"{disk}/driver/@type") == "qcow2"
        assert found(root, f"{disk}/driver/@cache") == "none"
        assert found(root, f"{disk}/driver/@error_policy") == "stop"
        assert found(root, f"{disk}/driver/@rerror_policy") == "stop"
        assert found(root, f"{disk}/address/@bus") == "0x10"
        assert count(root, f"{disk}/backingStore[not(*)]") == 1

    def test_the_cd_drive_is_always_there(self) -> None:
        empty = build(a_spec())
        assert empty.find("devices/disk[@device='cdrom']/source") is None
        full = build(a_spec(cdrom="iso/debian.iso"))
        drive = "devices/disk[@device='cdrom']"
        assert found(full, f"{drive}/source/@file") == f"{STORAGE}/iso/debian.iso"
        assert found(full, f"{drive}/target/@bus") == "sata"
        assert full.find(f"{drive}/readonly") is not None

    def test_a_read_only_disk(self) -> None:
        disk = msgspec.structs.replace(DATA, read_only=True)
        root = build(a_spec(disks=(SYSTEM, disk)))
        assert count(root, f"devices/disk[alias/@name='ua-{DATA.id}']/readonly") == 1
        assert count(root, f"devices/disk[alias/@name='ua-{SYSTEM.id}']/readonly") == 0

    def test_a_virtio_disk_needs_its_bus(self) -> None:
        with pytest.raises(UnusableSpecError, match="PCI bus"):
            build(a_spec(disks=(msgspec.structs.replace(SYSTEM, pci_bus=None),)))

    def test_scsi_and_sata_disks_have_places_of_their_own(self) -> None:
        disks = (
            *(a_disk(number, DiskBus.SCSI, 16 + number) for number in range(3)),
            *(a_disk(10 + number, DiskBus.SCSI) for number in range(3)),
            *(a_disk(20 + number, DiskBus.SATA) for number in range(5)),
        )
        root = build(a_spec(disks=disks))
        seen = [
            (
                found(disk, "target/@bus"),
                found(disk, "address/@target"),
                found(disk, "address/@unit"),
            )
            for disk in root.iterfind("devices/disk")
        ]
        assert len(set(seen)) == len(disks) + 1
        names = [found(disk, "target/@dev") for disk in root.iterfind("devices/disk")]
        assert len(set(names)) == len(names)

    def test_more_sata_disks_than_ports_are_refused(self) -> None:
        disks = tuple(a_disk(number, DiskBus.SATA) for number in range(6))
        with pytest.raises(UnusableSpecError, match="SATA"):
            build(a_spec(disks=disks))

    def test_many_disks_have_many_names(self) -> None:
        disks = tuple(a_disk(number, pci_bus=20 + number) for number in range(30))
        root = build(a_spec(disks=disks, pci_bus_next=60))
        names = [found(disk, "target/@dev") for disk in root.iterfind("devices/disk")][1:]
        assert names[:2] == ["vda", "vdb"]
        assert names[25:28] == ["vdz", "vdaa", "vdab"]


class TestBoot:
    def test_a_kernel_boots_before_any_device(self) -> None:
        boot = Boot(kernel="boot/vmlinuz", initrd="boot/initrd", command_line="quiet a='<&>'")
        root = build(a_spec(boot=boot))
        assert found(root, "os/kernel") == f"{STORAGE}/boot/vmlinuz"
        assert found(root, "os/initrd") == f"{STORAGE}/boot/initrd"
        assert found(root, "os/cmdline") == "quiet a='<&>'"
        assert root.find("devices/*/boot") is None

    def test_devices_boot_in_their_order(self) -> None:
        root = build(a_spec(boot=Boot(devices=("cdrom", "disk", "network"))))
        assert found(root, "devices/disk[@device='cdrom']/boot/@order") == "1"
        assert found(root, f"devices/disk[alias/@name='ua-{SYSTEM.id}']/boot/@order") == "2"
        assert count(root, f"devices/disk[alias/@name='ua-{DATA.id}']/boot") == 0
        assert found(root, f"devices/interface[alias/@name='ua-{NIC.id}']/boot/@order") == "3"

    def test_without_a_bootable_disk_all_are_tried(self) -> None:
        disks = (msgspec.structs.replace(SYSTEM, bootable=False), DATA)
        root = build(a_spec(disks=disks, boot=Boot(devices=("disk",))))
        assert [each.get("order") for each in root.iterfind("devices/disk/boot")] == ["1", "2"]

    def test_an_unknown_device_is_refused(self) -> None:
        with pytest.raises(UnusableSpecError, match="floppy"):
            build(a_spec(boot=Boot(devices=("floppy",))))


class TestAddresses:
    def test_each_bus_is_a_root_port_of_that_number(self) -> None:
        root = build(a_spec(pci_bus_next=40))
        ports = root.findall("devices/controller[@model='pcie-root-port']")
        assert [port.get("index") for port in ports] == [str(number) for number in range(1, 40)]
        seen = {(found(p, "address/@slot"), found(p, "address/@function")) for p in ports}
        assert len(seen) == len(ports)
        assert [found(port, "target/@chassis") for port in ports] == [p.get("index") for p in ports]
        # a slot whose first function does not say so hides the others
        for port in ports:
            first = found(port, "address/@function") == "0x0"
            assert (port.find("address[@multifunction='on']") is not None) == first

    def test_fixed_devices_are_at_their_ports(self) -> None:
        root = build(a_spec())
        expected = {
            "controller[@type='scsi']": FixedPciBus.SCSI,
            "controller[@type='virtio-serial']": FixedPciBus.SERIAL,
            "memballoon": FixedPciBus.BALLOON,
            "rng": FixedPciBus.RNG,
        }
        for device, bus in expected.items():
            assert found(root, f"devices/{device}/address/@bus") == f"{bus:#04x}"

    def test_no_two_devices_share_an_address(self) -> None:
        root = build(a_spec())
        addresses = [value for value in places(root).values() if ("type", "pci") in value]
        bare = [tuple(pair for pair in each if pair[0] != "multifunction") for each in addresses]
        assert len(set(bare)) == len(bare)

    def test_what_is_left_stays_where_it_was(self) -> None:
        """Contract D 6: equal at every start, also after an unplug."""
        before = places(build(a_spec()))
        after = places(build(a_spec(disks=(DATA,))))
        assert after == {key: place for key, place in before.items() if SYSTEM.id not in key}
        grown = places(build(a_spec(disks=(DATA, a_disk(9, pci_bus=19)), pci_bus_next=20)))
        assert {key: grown[key] for key in after} == after

    def test_the_same_spec_is_the_same_machine(self) -> None:
        assert domain_xml(a_spec(), FACTS, CONSOLE) == domain_xml(a_spec(), FACTS, CONSOLE)

    def test_there_are_so_many_buses(self) -> None:
        build(a_spec(pci_bus_next=LAST_PCI_BUS + 1))
        with pytest.raises(UnusableSpecError, match="possible"):
            build(a_spec(pci_bus_next=LAST_PCI_BUS + 2))


class TestNics:
    def test_a_nic(self) -> None:
        root = build(a_spec())
        nic = "devices/interface"
        assert found(root, f"{nic}/mac/@address") == NIC.mac
        assert found(root, f"{nic}/source/@bridge") == "br0"
        assert found(root, f"{nic}/alias/@name") == f"ua-{NIC.id}"
        assert found(root, f"{nic}/link/@state") == "up"
        unplugged = build(a_spec(nics=(msgspec.structs.replace(NIC, linked=False),)))
        assert found(unplugged, f"{nic}/link/@state") == "down"


class TestPaths:
    @pytest.mark.parametrize(
        "name",
        ["", "/", "/etc/passwd", "..", "../a", "a/../b", "a/..", "./a", "a//b", "a/", ".a", "a/.b"],
    )
    def test_what_leads_out_or_hides_is_refused(self, name: str) -> None:
        with pytest.raises(UnusableSpecError):
            storage_path(STORAGE, name)

    @given(st.text(alphabet=st.sampled_from("./ab\\\0\n~$ -é"), max_size=20))
    def test_nothing_that_is_accepted_lies_outside(self, name: str) -> None:
        try:
            path = storage_path(STORAGE, name)
        except UnusableSpecError:
            return
        assert path == f"{STORAGE}/{name}"
        assert not {"..", ".", ""} & set(path.split("/")[1:])
        assert "\0" not in path

    @pytest.mark.parametrize("field", ["volume", "cdrom", "kernel", "initrd"])
    def test_every_name_in_a_spec_is_judged(self, field: str) -> None:
        bad = "../../etc/shadow"
        spec = {
            "volume": a_spec(disks=(msgspec.structs.replace(SYSTEM, volume=bad),)),
            "cdrom": a_spec(cdrom=bad),
            "kernel": a_spec(boot=Boot(kernel=bad)),
            "initrd": a_spec(boot=Boot(kernel="vmlinuz", initrd=bad)),
        }[field]
        with pytest.raises(UnusableSpecError):
            build(spec)

    def test_all_files_of_a_spec_are_known(self) -> None:
        spec = a_spec(boot=Boot(kernel="k", initrd="i"), cdrom="c.iso")
        xml = domain_xml(spec, FACTS, CONSOLE)
        assert files_of(spec) == ("volumes/d1.qcow2", "volumes/d2.qcow2", "c.iso", "k", "i")
        assert all(f"{STORAGE}/{name}" in xml for name in files_of(spec))


def tuned(tuning: Tuning) -> RunSpec:
    return with_configuration(a_spec(), tuning=tuning)


TUNED = Tuning(
    pins=(CpuPin(vcpu=0, cpus="0-3,8"), CpuPin(vcpu=3, cpus="1")),
    numa_nodes=(
        GuestNumaNode(vcpus="0-1", memory_bytes=128 << 20, host_nodes="0"),
        GuestNumaNode(vcpus="2", memory_bytes=128 << 20),
        GuestNumaNode(
            vcpus="3", memory_bytes=256 << 20, host_nodes="0-1", mode=NumaMode.INTERLEAVE
        ),
    ),
    huge_page_bytes=2 << 20,
)


def test_processors_and_memory_lie_where_they_are_bound_to() -> None:
    root = build(tuned(TUNED))
    assert found(root, "cputune/vcpupin[@vcpu='0']/@cpuset") == "0-3,8"
    assert found(root, "cputune/vcpupin[@vcpu='3']/@cpuset") == "1"
    assert count(root, "cputune/*") == 2
    assert found(root, "cpu/numa/cell[@id='2']/@cpus") == "3"
    assert found(root, "cpu/numa/cell[@id='2']/@memory") == str(256 << 10)
    assert found(root, "numatune/memnode[@cellid='0']/@mode") == "strict"
    assert found(root, "numatune/memnode[@cellid='2']/@nodeset") == "0-1"
    assert count(root, "numatune/*") == 2
    assert found(root, "memoryBacking/hugepages/page/@size") == "2048"
    plain = build(a_spec())
    for tag in ("cputune", "numatune", "memoryBacking", "cpu/numa"):
        assert count(plain, tag) == 0


ITS_OWN = Dedicated(pins=(CpuPin(vcpu=0, cpus="5"), CpuPin(vcpu=1, cpus="7")), cpus="4-7")


def on_own(spec: RunSpec, own: Dedicated | None = ITS_OWN) -> RunSpec:
    return msgspec.structs.replace(spec, dedicated=own)


def _but_for_pins(root: etree._Element) -> list[tuple[object, dict[str, str], str]]:
    return [
        (each.tag, {str(name): str(value) for name, value in each.attrib.items()}, each.text or "")
        for each in root.iter()
        if each.tag not in {"vcpupin", "cputune"}
    ]


def test_virtual_cpus_run_on_those_that_are_their_own() -> None:
    spec = on_own(tuned(Tuning(cpu_policy=CpuPolicy.ISOLATE_THREADS)))
    root = build(spec)
    assert found(root, "cputune/vcpupin[@vcpu='0']/@cpuset") == "5"
    assert found(root, "cputune/vcpupin[@vcpu='1']/@cpuset") == "7"
    assert count(root, "cputune/*") == 2
    assert same_places(root, spec)
    others = Dedicated(pins=(CpuPin(vcpu=0, cpus="1"), CpuPin(vcpu=1, cpus="2")), cpus="1-2")
    assert not same_places(root, on_own(spec, others))
    assert not same_places(root, on_own(spec, None))
    # at another host it has others, which is all that differs
    there = on_own_cpus(domain_xml(spec, FACTS, CONSOLE), others)
    assert same_places(parse(there), on_own(spec, others))
    assert _but_for_pins(parse(there)) == _but_for_pins(root)
    plain = on_own_cpus(domain_xml(a_spec(), FACTS, CONSOLE), ITS_OWN)
    assert same_places(parse(plain), on_own(a_spec()))


@pytest.mark.parametrize(
    "tuning",
    [
        Tuning(),
        msgspec.structs.replace(TUNED, pins=()),
        msgspec.structs.replace(TUNED, pins=(CpuPin(vcpu=0, cpus="0-3"),)),
        msgspec.structs.replace(TUNED, numa_nodes=TUNED.numa_nodes[:2]),
        msgspec.structs.replace(TUNED, huge_page_bytes=None),
        msgspec.structs.replace(TUNED, huge_page_bytes=1 << 30),
    ],
)
def test_a_coming_vm_that_is_bound_otherwise_is_told_apart(tuning: Tuning) -> None:
    assert same_places(build(tuned(TUNED)), tuned(TUNED))
    assert not same_places(build(tuned(tuning)), tuned(TUNED))
    assert not same_places(build(tuned(TUNED)), tuned(tuning))
