"""The stage of the tests on real parts: the settings that name them, a product on small disks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from tests.harness.guest import Guest
from tests.harness.kafka import KafkaBroker
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import free_port
from tests.harness.smtp import SmtpReceiver
from tests.harness.snmp import SnmpReceiver
from tests.harness.workspace import Workspace
from tests.system.product import Product
from tests.system.real_host import RealHost
from tests.system.small_disk import SmallDisk

ONCALL = "oncall@example.org"

SETTINGS = """
time_scale = {time_scale}
[api]
host = "{address}"
[gateway]
host = "{address}"
port = {gateway_port}
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
inform = {inform}
"""

# The database refuses to start with less than 256 MiB free. Processes log beside these folders.
DISKS_MIB = {"postgres": 1_024, "warehouse": 256, "notifier": 16, "hosts": 32}
AGENT_DISK_MIB = 8


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The real parts that a product is put between."""

    workspace: Workspace
    network: HostNetwork
    kafka: KafkaBroker
    smtp: SmtpReceiver
    snmp: SnmpReceiver


def settings_text(
    parts: Parts,
    *,
    time_scale: float,
    event: str,
    gateway_port: int = 0,
    inform: bool = False,
) -> str:
    """Return the settings of a product on these parts that tells of one audit event."""
    secrets = parts.workspace.make_folder("secrets")
    (secrets / "smtp").write_text(parts.smtp.password or "")
    (secrets / "community").write_text(parts.snmp.community)
    return SETTINGS.format(
        time_scale=time_scale,
        telemetry_s=2 / time_scale,
        event=event,
        address=parts.network.address,
        gateway_port=gateway_port,
        kafka=parts.kafka.bootstrap,
        oncall=ONCALL,
        smtp_host=parts.smtp.host,
        smtp_port=parts.smtp.port,
        smtp_user=parts.smtp.username,
        password_file=secrets / "smtp",
        smtp_ca=parts.smtp.certificate,
        snmp=f"{parts.snmp.host}:{parts.snmp.port}",
        community_file=secrets / "community",
        inform=str(inform).lower(),
    )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything that chaos is done to. `disks` are the folders that can be filled."""

    parts: Parts
    product: Product
    host: RealHost
    guest: Guest
    disks: dict[str, SmallDisk]
    port: int

    def restart_everything(self) -> None:
        """Kill the supervisor with -9, which takes all its processes along, and start it anew."""
        self.product.kill_everything()
        self.product.start(self.port)


@contextlib.contextmanager
def set_stage(
    parts: Parts, machine: LibvirtHost, guest: Guest, *, time_scale: float, event: str, hosts: int
) -> Iterator[Stage]:
    """Put up a product on small disks with simulated hosts and a real one; all is ended after."""
    text = settings_text(
        parts, time_scale=time_scale, event=event, gateway_port=free_port(), inform=True
    )
    product = Product(parts.workspace, "product", text, hosts=hosts)
    disks = {
        name: SmallDisk(parts.workspace, product.root / name, mib)
        for name, mib in DISKS_MIB.items()
    }
    host = RealHost(product, machine, "kvm01")
    host.time_scale = time_scale
    disks["agent"] = SmallDisk(parts.workspace, host.state, AGENT_DISK_MIB, machine)
    port = free_port()
    with contextlib.ExitStack() as stack:
        for disk in disks.values():
            stack.enter_context(disk)
        stack.callback(product.stop)
        product.start(port)
        host.stock(guest)
        host.enrol()
        host.start_agent()
        host.await_up()
        yield Stage(parts=parts, product=product, host=host, guest=guest, disks=disks, port=port)
