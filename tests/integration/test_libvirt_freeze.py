"""A libvirtd that stands still and goes on, again and again, while many calls wait for it.

FREEZES=100 tries it as often; with SHARED=1 all threads use one connection, and the library of
libvirt 9.0 crashes (`hostagent.libvirt_lines` says why).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.workspace import Workspace
from tests.integration.libvirt_driver_rig import started_host

FREEZES = int(os.environ.get("FREEZES", "6"))
FROZEN_S = (1.7, 2.0, 2.1, 2.3, 2.6, 3.2)
"""libvirt gives a connection up after 2 s without an answer: shortly before, then, and after."""
ANSWERS_MIN = 5

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60 + 12 * FREEZES)]


@pytest.fixture(scope="module")
def host(workspace: Workspace, host_network: HostNetwork) -> Iterator[LibvirtHost]:
    with started_host(workspace, host_network, 43) as host:
        yield host


@pytest.fixture
def child(host: LibvirtHost) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("libvirt_freeze_child.py")
    command = [sys.executable, str(script), host.uri, *os.environ.get("SHARED", "").split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        yield child
        child.kill()


def await_answers(child: subprocess.Popen[str], limit_s: float = 10.0) -> None:
    """Wait until the child got answers again; fails where its process ended."""
    assert child.stdout is not None
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        line = child.stdout.readline()
        assert line, f"it ended with exit status {child.wait(10)}"
        word, _, number = line.partition(" ")
        if word == "answers" and int(number) >= ANSWERS_MIN:
            return
    pytest.fail("no answers")


def test_a_libvirtd_that_stood_still_ends_no_agent(
    host: LibvirtHost, child: subprocess.Popen[str]
) -> None:
    """given many calls, when libvirtd stands still until they are given up, then it is asked on"""
    await_answers(child)
    for number in range(FREEZES):
        host.pause_libvirtd()
        time.sleep(FROZEN_S[number % len(FROZEN_S)])
        host.resume_libvirtd()
        await_answers(child)
