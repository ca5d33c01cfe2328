"""Every process, disk and neighbour fails once, in a seeded order, during a stream of commands."""

from __future__ import annotations

import gc
import random

import pytest

from tests.conftest import require
from tests.harness.guest import Guest
from tests.harness.kafka import KafkaBroker
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.smtp import SmtpReceiver
from tests.harness.snmp import SnmpReceiver
from tests.harness.workspace import Workspace
from tests.system.chaos import EVENT, HOSTS, TIME_SCALE, Load, check_stage, do_faults
from tests.system.chaos_faults import catalogue
from tests.system.stage import Parts, set_stage

pytestmark = [
    pytest.mark.timeout(900),
    # A mail server that stops leaves the sockets of its clients to the collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SEED = 4
LONGER = ("again and again",)
"""Left to `make chaos`: what kills one process does once here."""


def test_whatever_fails_nothing_is_lost_doubled_reordered_or_stuck(
    workspace: Workspace,
    host_network: HostNetwork,
    kafka: KafkaBroker,
    smtp: SmtpReceiver,
    snmp: SnmpReceiver,
    libvirt_host: LibvirtHost,
    guest: Guest,
) -> None:
    for component in ("libvirt", "kafka", "snmptrapd"):
        require(component)
    parts = Parts(workspace=workspace, network=host_network, kafka=kafka, smtp=smtp, snmp=snmp)
    done: list[str] = []
    with set_stage(
        parts, libvirt_host, guest, time_scale=TIME_SCALE, event=EVENT, hosts=HOSTS
    ) as stage:
        dice = random.Random(SEED)
        faults = [fault for fault in catalogue(stage) if not fault.name.endswith(LONGER)]
        dice.shuffle(faults)
        load = Load(stage, dice)
        load.begin()
        do_faults(faults, dice, done.append)
        commands = load.end()
        truth = check_stage(stage, load)
    gc.collect()
    assert commands > 50, done
    assert truth.head > 500
