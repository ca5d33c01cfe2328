"""What a migration's relay lets through to libvirtd, and what not."""

from __future__ import annotations

import re
import struct

import pytest

from hostagent.domain_xml import domain_xml
from hostagent.driver import RefusedMessageError
from hostagent.migration_rpc import (
    FINISH,
    PAUSED_FLAG,
    PREPARE,
    REMOTE_PROGRAM,
    check,
    check_domain,
    held_at_finish,
    is_finish,
)
from tests.unit.hostagent_libvirt.specs import CONSOLE, FACTS, STORAGE, a_spec

LIST_ALL_DOMAINS = 273


def message(procedure: int, payload: bytes = b"") -> bytes:
    header = struct.pack(">IIIiIi", REMOTE_PROGRAM, 1, procedure, 0, 7, 0)
    return struct.pack(">I", 4 + len(header) + len(payload)) + header + payload


def own_xml() -> str:
    """Return the run's XML with its memory in KiB, as libvirt writes it."""
    kib = a_spec().configuration.memory_bytes // 1024
    xml = domain_xml(a_spec(), FACTS, CONSOLE)
    return re.sub(r"<memory[^>]*>\d+</memory>", f"<memory unit='KiB'>{kib}</memory>", xml)


@pytest.mark.parametrize("procedure", [LIST_ALL_DOMAINS, 10, 304, 0])
def test_other_procedures_are_refused(procedure: int) -> None:
    with pytest.raises(RefusedMessageError, match="refused"):
        check(message(procedure), a_spec(), STORAGE)


def test_a_preparation_that_cannot_be_read_or_names_no_domain_is_refused() -> None:
    for payload in (b"", struct.pack(">I", 5), struct.pack(">I", 0)):
        with pytest.raises(RefusedMessageError):
            check(message(PREPARE, payload), a_spec(), STORAGE)


def test_the_last_message_is_changed_so_that_the_vm_stands_still_there() -> None:
    live, cancelled = 1, 0
    payload = struct.pack(">III", 0, 0, live) + struct.pack(">i", cancelled)
    finish = message(FINISH, payload)

    changed = held_at_finish(finish)

    assert is_finish(finish)
    assert not is_finish(message(PREPARE, payload))
    assert changed[:-8] == finish[:-8]
    assert struct.unpack(">Ii", changed[-8:]) == (live | PAUSED_FLAG, cancelled)
    assert held_at_finish(changed) == changed
    with pytest.raises(RefusedMessageError):
        held_at_finish(message(FINISH))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("</devices>", "<hostdev/></devices>", "devices"),
        ("</devices>", "<filesystem/></devices>", "devices"),
        ("<metadata>", "<metadata><other/>", None),
        ("<uuid>", "<uuid>f", "id"),
        (STORAGE, "/etc", "disks"),
        (">Westmere<", ">Haswell<", "CPU model"),
        ('mode="custom"', 'mode="host-passthrough"', "CPU model"),
        ("pc-q35-7.2", "pc-q35-7.1", "machine type"),
        ('name="serial">', 'name="serial">x', "serial number"),
        (
            "</domain>",
            "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'/></domain>",
            "command line",
        ),
    ],
)
def test_a_domain_that_is_not_the_ordered_one_is_refused(
    old: str, new: str, what: str | None
) -> None:
    xml = own_xml()
    head, separator, tail = xml.rpartition(old) if old.startswith("</") else xml.partition(old)
    assert separator
    changed = head + new + tail
    if what is None:
        check_domain(changed, a_spec(), STORAGE)
        return
    with pytest.raises(RefusedMessageError, match=what):
        check_domain(changed, a_spec(), STORAGE)
