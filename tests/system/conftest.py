"""Fixtures of the system tests on real parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import require
from tests.harness.guest import Guest
from tests.harness.kafka import KafkaBroker
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.smtp import SmtpReceiver
from tests.harness.snmp import SnmpReceiver
from tests.harness.workspace import Workspace
from tests.system.migration_rig import mend, open_pair
from tests.system.product import Product
from tests.system.real_host import RealHost
from tests.system.stage import Parts, settings_text

# Helpers that assert: their failures are to show what was compared.
pytest.register_assert_rewrite("tests.system.chaos_checks")


@pytest.fixture
def real_product(
    request: pytest.FixtureRequest,
    workspace: Workspace,
    host_network: HostNetwork,
    kafka: KafkaBroker,
    smtp: SmtpReceiver,
    snmp: SnmpReceiver,
) -> Iterator[Product]:
    """Chronovisor on a real broker, with a real mail server and SNMP manager to tell.

    The marker `product(hosts=, time_scale=, event=)` says how many simulated hosts it has beside
    the real one, how time-outs are scaled, and which audit event is told.
    """
    for component in ("libvirt", "kafka", "snmptrapd"):
        require(component)
    marker = request.node.get_closest_marker("product")
    wanted: dict[str, Any] = {"hosts": 0, "time_scale": 1.0, "event": "VM_DOWN_ERROR"}
    wanted |= marker.kwargs if marker is not None else {}
    parts = Parts(workspace=workspace, network=host_network, kafka=kafka, smtp=smtp, snmp=snmp)
    settings = settings_text(parts, time_scale=wanted["time_scale"], event=wanted["event"])
    product = Product(workspace, "product", settings, hosts=wanted["hosts"])
    product.start()
    try:
        yield product
    finally:
        product.stop()


@pytest.fixture
def real_host(
    request: pytest.FixtureRequest, real_product: Product, libvirt_host: LibvirtHost, guest: Guest
) -> RealHost:
    """A real libvirt host that joined by token and was approved."""
    marker = request.node.get_closest_marker("product")
    host = RealHost(real_product, libvirt_host, "kvm01")
    host.time_scale = marker.kwargs.get("time_scale", 1.0) if marker is not None else 1.0
    host.stock(guest)
    host.enrol()
    host.start_agent()
    host.await_up()
    return host


@pytest.fixture(scope="module")
def opened_pair(
    workspace: Workspace, host_network: HostNetwork, guest: Guest
) -> Iterator[tuple[RealHost, RealHost]]:
    """Two hosts between which VMs move."""
    require("libvirt")
    yield from open_pair(workspace, host_network, guest)


@pytest.fixture
def pair(opened_pair: tuple[RealHost, RealHost]) -> Iterator[tuple[RealHost, RealHost]]:
    """The two hosts, whole again after each test."""
    yield opened_pair
    mend(opened_pair)
