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
from tests.system.product import Product
from tests.system.real_host import RealHost

ONCALL = "oncall@example.org"

SETTINGS = """
time_scale = {time_scale}
[api]
host = "{address}"
[gateway]
host = "{address}"
[hosts]
telemetry_interval_s = {telemetry_s}
[kafka]
bootstrap = "{kafka}"
projector = true
[notifier]
filter = "include:{event}(smtp:{oncall}) include:{event}(snmp:) exclude:*"
[notifier.smtp]
server = "{smtp_host}"
port = {smtp_port}
encryption = "starttls"
user = "{smtp_user}"
password_file = "{password_file}"
ca_file = "{smtp_ca}"
sender = "chronovisor@example.org"
[notifier.snmp]
managers = ["{snmp}"]
community_file = "{community_file}"
"""


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
    secrets = workspace.make_folder("secrets")
    (secrets / "smtp").write_text(smtp.password or "")
    (secrets / "community").write_text(snmp.community)
    settings = SETTINGS.format(
        time_scale=wanted["time_scale"],
        telemetry_s=2 / wanted["time_scale"],
        event=wanted["event"],
        address=host_network.address,
        kafka=kafka.bootstrap,
        oncall=ONCALL,
        smtp_host=smtp.host,
        smtp_port=smtp.port,
        smtp_user=smtp.username,
        password_file=secrets / "smtp",
        smtp_ca=smtp.certificate,
        snmp=f"{snmp.host}:{snmp.port}",
        community_file=secrets / "community",
    )
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
