"""What a host can do, from libvirt's descriptions of it. Pure."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hostagent.domain_xml import EXACT_MACHINE
from hostagent.libvirt_xml import parse


class DomainAbilities(msgspec.Struct, frozen=True, kw_only=True):
    """What QEMU on the host offers to a machine, from libvirt's domain capabilities."""

    emulator: str
    cpu_models: tuple[str, ...]
    host_cpu_model: str


def domain_abilities(xml: str) -> DomainAbilities:
    """Read domain capabilities; only CPU models that this host can give in full."""
    root = parse(xml)
    models = root.iterfind("cpu/mode[@name='custom']/model[@usable='yes']")
    return DomainAbilities(
        emulator=root.findtext("path") or "",
        cpu_models=tuple(sorted({model.text for model in models if model.text})),
        host_cpu_model=root.findtext("cpu/mode[@name='host-model']/model") or "",
    )


class HostAbilities(msgspec.Struct, frozen=True, kw_only=True):
    """What libvirt says of the host itself; `virtualizations` are qemu and kvm as offered."""

    architecture: str
    cpu_model: str
    machine_types: tuple[str, ...]
    virtualizations: tuple[str, ...]
    emulator: str


def host_abilities(xml: str) -> HostAbilities:
    """Read a host's capabilities. Machine types are exact ones: aliases such as q35 change their
    meaning when QEMU is upgraded.
    """
    root = parse(xml)
    architecture = root.findtext("host/cpu/arch") or "x86_64"
    guest = root.find(f"guest/arch[@name='{architecture}']")
    machines: set[str] = set()
    kinds: list[str] = []
    emulator = ""
    if guest is not None:
        names = (each.text or "" for each in guest.iter("machine"))
        machines = {name for name in names if EXACT_MACHINE.fullmatch(name)}
        emulator = guest.findtext("emulator") or ""
        kinds = [str(each.get("type")) for each in guest.iterfind("domain")]
    return HostAbilities(
        architecture=architecture,
        cpu_model=root.findtext("host/cpu/model") or "",
        machine_types=tuple(sorted(machines, key=_version, reverse=True)),
        virtualizations=tuple(dict.fromkeys(kinds)),
        emulator=emulator,
    )


def _version(machine: str) -> tuple[int, ...]:
    """Return what sorts pc-q35-10.0 behind pc-q35-9.2."""
    return tuple(int(part) for part in machine.removeprefix("pc-q35-").split(".") if part.isdigit())


def version_text(number: int) -> str:
    """Return a version as people write it; libvirt packs it into one number."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def bridges(sys_folder: Path) -> tuple[str, ...]:
    """Return the names of the network bridges."""
    devices = sys_folder / "class" / "net"
    return tuple(sorted(found.parent.name for found in devices.glob("*/bridge")))
