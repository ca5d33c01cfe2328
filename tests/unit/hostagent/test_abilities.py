"""What of a host's abilities is worth a word to the engine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from events.types.host import Capabilities
from events.types.host_memory import Swap, swap_of
from hostagent.abilities import Abilities
from hostagent.memory_files import MEMINFO, MemoryFiles
from hostagent.simulated import SimulatedDriver
from hostagent.timings import Timings

MIB = 1024**2


class Measured(SimulatedDriver):
    """A driver of a host whose swap is said."""

    swap: Swap | None = Swap(total_bytes=100 * MIB)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="host01")
        self.anew: list[bool] = []

    async def capabilities(self, *, anew: bool = False) -> Capabilities:
        self.anew.append(anew)
        return msgspec.structs.replace(await super().capabilities(anew=anew), swap=self.swap)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (Swap(total_bytes=100), Swap(total_bytes=100), False),
        (None, Swap(total_bytes=100), True),
        (Swap(total_bytes=100), Swap(total_bytes=200), True),
        (Swap(total_bytes=100), Swap(total_bytes=100, used_bytes=5), False),
        (Swap(total_bytes=100), Swap(total_bytes=100, used_bytes=6), True),
        (
            Swap(total_bytes=100, pressure_percent=0),
            Swap(total_bytes=100, pressure_percent=1),
            True,
        ),
        (
            Swap(total_bytes=100, pressure_percent=1),
            Swap(total_bytes=100, pressure_percent=-3),
            False,
        ),
        (
            Swap(total_bytes=100, pressure_percent=1),
            Swap(total_bytes=100, pressure_percent=-4),
            True,
        ),
        (
            Swap(total_bytes=100, pressure_percent=1),
            Swap(total_bytes=100, pressure_percent=5),
            False,
        ),
        (
            Swap(total_bytes=100, pressure_percent=1),
            Swap(total_bytes=100, pressure_percent=6),
            True,
        ),
    ],
)
async def test_swap_is_told_where_it_matters(
    tmp_path: Path, before: Swap | None, after: Swap, *, told: bool
) -> None:
    driver = Measured(tmp_path / "machine")
    await driver.open()
    abilities = Abilities(driver, tmp_path, Timings())
    driver.swap = before
    await abilities.known()
    driver.swap = after
    changed = await abilities.changed()
    assert (changed is not None) is told
    if changed is not None:
        assert changed.swap == after
        assert await abilities.changed() is None
    await driver.close()


async def test_a_hello_says_what_the_host_can_do_now(tmp_path: Path) -> None:
    """given a refresh, which is a hello, then it is read anew; a look takes what is known"""
    driver = Measured(tmp_path / "machine")
    await driver.open()
    abilities = Abilities(driver, tmp_path, Timings())
    await abilities.known()
    await abilities.changed()
    await abilities.known()
    assert driver.anew == [True, False, True]
    await driver.close()


def test_the_kernels_figures_are_read(tmp_path: Path) -> None:
    path = tmp_path / MEMINFO
    assert MemoryFiles(tmp_path).swap() is None
    path.parent.mkdir(parents=True)
    path.write_text(
        "MemTotal: 1000 kB\nMemAvailable: 100 kB\nSwapTotal: 800 kB\nSwapFree: 500 kB\n"
    )
    found = MemoryFiles(tmp_path).swap()
    assert found == Swap(total_bytes=800 * 1024, used_bytes=300 * 1024, pressure_percent=20)
    path.write_text("MemTotal: 1000 kB\nMemAvailable: 100 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")
    assert MemoryFiles(tmp_path).swap() == Swap(total_bytes=0)
    real = MemoryFiles().swap()
    assert real is not None
    assert 0 <= real.used_bytes <= real.total_bytes


def test_little_is_no_pressure_and_plenty_is_shown_as_no_more_than_so_much() -> None:
    assert swap_of(100, 50, 50, 1000).pressure_percent == 0
    assert swap_of(100, 59, 50, 1000).pressure_percent == 0
    assert swap_of(100, 60, 50, 1000).pressure_percent == 1
    assert swap_of(100, 0, 900, 1000).pressure_percent == -5
