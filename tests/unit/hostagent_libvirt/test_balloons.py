"""Balloons through libvirt's statistics, and back in KiB."""

import pytest

from hostagent.libvirt_balloons import reading

MIB = 1 << 20


def test_a_guest_that_tells_what_it_uses() -> None:
    read = reading(
        {
            "balloon.maximum": 512 * 1024,
            "balloon.current": 384 * 1024,
            "balloon.usable": 100 * 1024,
            "balloon.unused": 50 * 1024,
            "balloon.last-update": 1_700_000_000,
        }
    )
    assert (read.defined_bytes, read.current_bytes) == (512 * MIB, 384 * MIB)
    assert read.usable_bytes == 100 * MIB


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"balloon.last-update": 0, "balloon.usable": 5},
        {"balloon.last-update": 1_700_000_000},
    ],
)
def test_one_that_does_not(more: dict[str, int]) -> None:
    read = reading({"balloon.maximum": 512 * 1024, **more})
    assert (read.defined_bytes, read.current_bytes) == (512 * MIB, 512 * MIB)
    assert read.usable_bytes is None


def test_an_older_guest_tells_what_is_unused() -> None:
    read = reading(
        {"balloon.maximum": 1024, "balloon.unused": 512, "balloon.last-update": 1_700_000_000}
    )
    assert read.usable_bytes == 512 * 1024
