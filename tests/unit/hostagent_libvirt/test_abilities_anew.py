"""When a host finds out anew what libvirt and QEMU can do, and what counts while it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.types.host import Capabilities
from hostagent.driver import DriverError, Happening
from tests.unit.hostagent_libvirt.fakes import CAPABILITIES, DOMAIN_CAPABILITIES, raising
from tests.unit.hostagent_libvirt.test_host import Rig

UPGRADED = CAPABILITIES.replace("pc-q35-7.2", "pc-q35-10.0")
BEFORE, AFTER = ("pc-q35-7.2",), ("pc-q35-10.0",)


@pytest.fixture
def qemu(tmp_path: Path) -> Path:
    """The program that libvirt says it starts."""
    program = tmp_path / "qemu"
    program.write_bytes(b"7.2")
    return program


@pytest.fixture
async def rig(tmp_path: Path, qemu: Path) -> AsyncIterator[Rig]:
    folder = tmp_path / "storage"
    folder.mkdir()
    rig = Rig(folder)
    rig.libvirt.domain_capabilities_xml = DOMAIN_CAPABILITIES.replace("/usr/bin/qemu", str(qemu))
    await rig.driver.open()
    assert (await rig.told()).happening is Happening.RECONNECTED
    assert (await rig.driver.capabilities()).machine_types == BEFORE
    rig.libvirt.capabilities = UPGRADED
    yield rig
    rig.libvirt.before = lambda _: None
    await rig.driver.close()


async def able(rig: Rig, *, anew: bool = False) -> Capabilities:
    return await rig.driver.capabilities(anew=anew)


async def test_it_is_kept_and_read_where_it_is_asked_for(rig: Rig) -> None:
    assert (await able(rig)).machine_types == BEFORE
    assert rig.libvirt.calls.count("figures") == 1
    assert (await able(rig, anew=True)).machine_types == AFTER
    assert (await able(rig)).machine_types == AFTER
    assert rig.libvirt.calls.count("figures") == 2


async def test_it_is_read_once_over_a_new_connection(rig: Rig) -> None:
    rig.libvirt.break_off()
    assert [(await rig.told()).happening for _ in range(2)] == [
        Happening.LOST,
        Happening.RECONNECTED,
    ]
    assert (await able(rig)).machine_types == AFTER
    await asyncio.gather(*(able(rig) for _ in range(4)))
    assert rig.libvirt.calls.count("figures") == 2


async def test_it_is_read_where_another_program_took_the_place_of_qemus(
    rig: Rig, qemu: Path
) -> None:
    new = qemu.with_suffix(".new")
    new.write_bytes(b"10.0")
    new.rename(qemu)
    assert (await able(rig)).machine_types == AFTER
    qemu.unlink()  # while a package is being replaced, say
    await able(rig)
    await able(rig)
    assert rig.libvirt.calls.count("figures") == 3


@pytest.mark.parametrize("call", ["figures", "domain_capabilities"])
async def test_what_is_known_counts_while_libvirt_does_not_answer(rig: Rig, call: str) -> None:
    rig.libvirt.before = raising(call, DriverError("busy"))
    assert (await able(rig, anew=True)).machine_types == BEFORE
    rig.libvirt.before = lambda _: None
    assert (await able(rig, anew=True)).machine_types == AFTER


async def test_a_new_connection_that_failed_to_tell_is_asked_again(rig: Rig) -> None:
    rig.libvirt.break_off()
    assert (await rig.told()).happening is Happening.LOST
    assert (await rig.told()).happening is Happening.RECONNECTED
    rig.libvirt.before = raising("figures", DriverError("busy"))
    assert (await able(rig)).machine_types == BEFORE
    rig.libvirt.before = lambda _: None
    assert (await able(rig)).machine_types == AFTER


async def test_what_was_never_known_is_not_made_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.driver.open()
    rig.libvirt.before = raising("figures", DriverError("busy"))
    with pytest.raises(DriverError, match="busy"):
        await rig.driver.capabilities()
    rig.libvirt.before = lambda _: None
    assert (await rig.driver.capabilities()).machine_types == BEFORE
    await rig.driver.close()


async def test_kvm_is_tried_once_for_each_program(
    rig: Rig, qemu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """given a host that was slow at the second try, then its guests run on KVM all the same"""
    tried: list[str] = []

    def try_it(emulator: str, device: Path) -> bool:
        del device
        tried.append(emulator)
        return len(tried) == 1

    monkeypatch.setattr("hostagent.libvirt_inventory.kvm_is_useful", try_it)
    offered = UPGRADED.replace(
        "<domain type='qemu'/>",
        f"<emulator>{qemu}</emulator><domain type='qemu'/><domain type='kvm'/>",
    )
    rig.libvirt.capabilities = offered
    inventory = rig.driver._inventory
    for _ in range(2):
        assert (await inventory.abilities("auto", anew=True)).virtualization == "kvm"
    qemu.write_bytes(b"longer than before")
    assert (await inventory.abilities("auto")).virtualization == "qemu"
    assert tried == [str(qemu)] * 2
