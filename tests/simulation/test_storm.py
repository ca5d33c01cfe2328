"""Storms, each in a process of its own; `python -m tests.simulation.storm` tells of one."""

from __future__ import annotations

import subprocess
import sys

import pytest

TOLD = {
    "standstill": ("6 times 15 minutes: nobody was turned off",),
    "storm": (
        "at most 20 at a time: 150 of 200 VMs run elsewhere, 50 wait with an explanation",
        "150 hosts are away, which was said once: nothing was started",
        "all 800 VMs are up",
        "0 hosts proved off meanwhile, none turned off",
    ),
    "storm_fencing": (
        "50 hosts were cut off and turned off, at most 20 at a time: all 200 VMs run again",
        "150 hosts were cut off, which was said once: nobody was turned off",
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("script", sorted(TOLD))
def test_hosts_lost_in_a_storm_come_back_in_order_and_within_bounds(script: str) -> None:
    """given 200 hosts, when 50, then 150 are lost, then all are back, then all VMs are up again"""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.simulation.{script}"],
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-4_000:]
    for words in TOLD[script]:
        assert words in done.stdout
