"""What of libvirt's own protocol a migration needs, and what a message that brings a VM says. Pure.

A source's libvirtd speaks to the destination's through relays; only these procedures pass, and the
one that makes a domain passes only once its XML was compared with the run that is expected.
Message layout and numbers: libvirt's remote_protocol.x and virnetprotocol.x.
"""

from __future__ import annotations

import struct

from lxml import etree

from events.types.run_spec import RunSpec
from hostagent.domain_tuning import same_places
from hostagent.domain_xml import storage_path
from hostagent.driver import RefusedMessageError
from hostagent.libvirt_metadata import OWN
from hostagent.libvirt_xml import disk_files, parse

REMOTE_PROGRAM, KEEPALIVE_PROGRAM = 0x20008086, 0x6B656570
PREPARE, FINISH = 303, 306
# open, close, supports_feature, auth_list, migrate_prepare3_params, migrate_finish3_params,
# register and unregister close callback
PROCEDURES = frozenset({1, 2, 60, 66, PREPARE, FINISH, 360, 361})
HEADER_BYTES = 28
MESSAGE_BYTES_MAX = 32 * 1024 * 1024
PAUSED_FLAG = 1 << 5
"""VIR_MIGRATE_PAUSED."""
STRING_TYPE = 7
_WIDTHS = {1: 4, 2: 4, 3: 8, 4: 8, 5: 8, 6: 4}
DOMAIN_NAME = "destination_name"
DOMAIN_XML = "destination_xml"
DEVICES = frozenset(
    {
        *("emulator", "disk", "interface", "controller", "serial", "console", "channel", "input"),
        *("graphics", "video", "audio", "memballoon", "rng", "watchdog", "panic"),
    }
)
"""Devices of which a source may speak: no host devices, no shared folders or memory."""


def check(message: bytes, spec: RunSpec, storage_folder: str) -> None:
    """Raise RefusedMessageError for a message from the source that must not reach libvirtd."""
    program, _version, procedure = struct.unpack(">III", message[4:16])
    if program == KEEPALIVE_PROGRAM:
        return
    if program != REMOTE_PROGRAM or procedure not in PROCEDURES:
        raise RefusedMessageError(f"procedure {procedure} of program {program:#x} is refused")
    if procedure == PREPARE:
        try:
            words = typed_strings(message[HEADER_BYTES:])
        except (struct.error, UnicodeDecodeError, KeyError, IndexError) as error:
            raise RefusedMessageError("a message that cannot be read") from error
        if words.get(DOMAIN_NAME, spec.vm) != spec.vm or DOMAIN_XML not in words:
            raise RefusedMessageError("the message names another VM")
        check_domain(words[DOMAIN_XML], spec, storage_folder)


def is_finish(message: bytes) -> bool:
    """Tell whether a message asks the destination to bring the domain to life."""
    program, _version, procedure = struct.unpack(">III", message[4:16])
    return bool(program == REMOTE_PROGRAM and procedure == FINISH)


def held_at_finish(message: bytes) -> bytes:
    """Return the message that ends a migration, such that the domain stands still where it came to.

    The arguments of remote_domain_migrate_finish3_params end with the flags and "cancelled".
    """
    if len(message) < HEADER_BYTES + 8:
        raise RefusedMessageError("a message that cannot be read")
    flags, cancelled = struct.unpack(">II", message[-8:])
    return message[:-8] + struct.pack(">II", flags | PAUSED_FLAG, cancelled)


def typed_strings(payload: bytes) -> dict[str, str]:
    """Return the text parameters of a list of typed parameters in XDR; no name twice."""
    found: dict[str, str] = {}
    (count,), place = struct.unpack_from(">I", payload), 4
    for _ in range(min(count, 64)):
        name, place = _string(payload, place)
        (kind,) = struct.unpack_from(">i", payload, place)
        place += 4
        if kind != STRING_TYPE:
            place += _WIDTHS[kind]
            continue
        text, place = _string(payload, place)
        if name in found:
            raise KeyError(name)
        found[name] = text
    return found


def _string(payload: bytes, place: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">I", payload, place)
    start, end = place + 4, place + 4 + length
    if end > len(payload):
        raise IndexError(end)
    return payload[start:end].decode(), start + (length + 3) // 4 * 4


def check_domain(xml: str, spec: RunSpec, storage_folder: str) -> None:
    """Raise RefusedMessageError unless the XML is that of the run, in all that could do harm."""
    root = parse(xml)
    configuration = spec.configuration
    own = root.find(f"metadata/{OWN}domain")
    machine = root.find("os/type")
    nics = {
        (_of(nic, "mac", "address"), _of(nic, "source", "bridge"))
        for nic in root.iterfind("devices/interface")
    }
    devices = root.find("devices")
    boot = configuration.boot
    differences = {
        "id": root.findtext("uuid") != spec.vm or root.findtext("name") != spec.vm,
        "incarnation": own is None
        or own.findtext(f"{OWN}incarnation") != str(spec.incarnation)
        or own.findtext(f"{OWN}vm") != spec.vm,
        "CPU model": not _same_cpu(root, spec),
        "machine type": machine is None or machine.get("machine") != spec.machine_type,
        "serial number": (root.findtext("sysinfo/system/entry[@name='serial']") or "").strip()
        != spec.serial_shown,
        "memory": root.findtext("memory") != str(configuration.memory_bytes // 1024),
        "CPU pinning and NUMA nodes": not same_places(root, spec),
        "disks": set(disk_files(root))
        != {storage_path(storage_folder, disk.volume) for disk in configuration.disks},
        "networks": nics != {(nic.mac, nic.bridge) for nic in configuration.nics},
        "kernel": not _same_file(root.findtext("os/kernel"), boot.kernel, storage_folder),
        "initrd": not _same_file(root.findtext("os/initrd"), boot.initrd, storage_folder),
        "devices": devices is None or any(child.tag not in DEVICES for child in devices),
        "QEMU's command line": any(str(child.tag).startswith("{") for child in root),
    }
    wrong = [name for name, differs in differences.items() if differs]
    if wrong:
        raise RefusedMessageError(f"the VM that comes in differs in its {', '.join(wrong)}")


def _of(element: etree._Element, tag: str, name: str) -> str:
    found = element.find(tag)
    return str(found.get(name, "")) if found is not None else ""


def _same_cpu(root: etree._Element, spec: RunSpec) -> bool:
    """Tell whether the CPU is the run's model; libvirt adds each feature that the guest sees."""
    processor = root.find("cpu")
    if processor is None or processor.get("mode") != "custom":
        return False
    return (processor.findtext("model") or "").strip() == spec.cpu_model


def _same_file(path: str | None, name: str | None, storage_folder: str) -> bool:
    return path == (None if name is None else storage_path(storage_folder, name))
