"""Storms, each in a process of its own; `python -m tests.simulation.storm` tells of one."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.timeout(280)
def test_hosts_lost_in_a_storm_come_back_in_order_and_within_bounds() -> None:
    """given 200 hosts, when 50, then 150 are lost, then power is back, then all VMs are up again"""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.storm"],
        capture_output=True,
        text=True,
        timeout=270,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-4_000:]
    assert "150 of 200 VMs run elsewhere, 50 wait with an explanation" in done.stdout
    assert "150 hosts are away: nothing was started" in done.stdout
    assert "all 800 VMs are up" in done.stdout
