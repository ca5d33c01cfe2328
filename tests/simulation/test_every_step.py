"""A thinned part of the kills at every step, and what boards that lie come to; see the modules."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.simulation.boards import Lie

STRIDE = 5
SCENES = ("create", "start", "stop", "suspend", "resume", "migrate", "remove")
LONG = {
    "fence": 12,
    "remove_host": 12,
    "enrol": 6,
    "halves": 20,
    "unnoticed_halves": 30,
    "restored_halves": 30,
    "restored_migration": 30,
    "restored_run": 30,
    "restored_vm": 30,
}


@pytest.mark.timeout(110)
def test_whoever_dies_at_whatever_step_all_comes_to_what_was_asked_for() -> None:
    """given short scenes, when each process dies at every fifth of its steps, then all is done"""
    done = run("--stride", str(STRIDE), *(f"--scene={name}" for name in SCENES))
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-4_000:]
    assert done.stdout.count(" plays") == len(SCENES)


@pytest.mark.timeout(110)
@pytest.mark.parametrize("scene", sorted(LONG))
def test_whoever_dies_in_a_long_scene_all_comes_to_what_was_asked_for(scene: str) -> None:
    """given a fencing, a VM in halves, a host that comes or goes, when somebody dies, it is done"""
    done = run("--stride", str(LONG[scene]), "--scene", scene)
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-4_000:]
    assert ("host3 " in done.stdout) == (scene != "remove_host"), "of a new host the agent as well"


@pytest.mark.timeout(110)
def test_a_board_that_lies_is_believed_only_where_nothing_reaches_its_host() -> None:
    """given each lie, and hosts that are dead, alive or out of reach, then VMs run once"""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.lies"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-4_000:]
    for lie in Lie:
        assert f"{lie.value}:" in done.stdout


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Kill at steps, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--every-step", *arguments],
        capture_output=True,
        text=True,
        timeout=105,
        check=False,
    )
