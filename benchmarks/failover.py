"""From a pulled plug to VMs that run elsewhere, on two real libvirt hosts.

`python -m benchmarks.failover [--vms 4] [--silent-s 10]`. A host with highly available VMs loses
its power; the engine notices its silence after `hosts.silent_timeout_s`; the proof that it is off
is given at once, as a person at the machine would; QEMU then runs on the other host, in the order
of priorities. The count begins when the power goes. With `BENCH=full` the time-out is the default.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os

from benchmarks._report import compare
from tests.harness.guest import build_guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.pair import Pair, two_hosts
from tests.system.product import Product

SETTINGS = """
[hosts]
grace_s = 5
silent_timeout_s = {silent_s}
"""
PATIENCE_S = 300.0
FULL = os.environ.get("BENCH") == "full"


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="benchmarks.failover", description=__doc__)
    parser.add_argument("--vms", type=int, default=4)
    parser.add_argument("--silent-s", type=float, default=60.0 if FULL else 10.0)
    arguments = parser.parse_args()
    workspace = Workspace()
    hosts: list[LibvirtHost] = []
    try:
        network = HostNetwork(workspace)

        def make() -> LibvirtHost:
            host = LibvirtHost(workspace, network, len(hosts) + 1)
            hosts.append(host)
            host.start()
            return host

        settings = SETTINGS.format(silent_s=arguments.silent_s)
        with two_hosts(
            workspace, network, make, build_guest(), time_scale=1.0, settings=settings
        ) as pair:
            _measure(pair, arguments.vms, arguments.silent_s)
        for host in hosts:
            host.stop()
        network.close()
    finally:
        workspace.close()


def _measure(pair: Pair, count: int, silent_s: float) -> None:
    product, lost, left = pair.product, pair.first, pair.second
    product.post(f"/v1/hosts/{left.id}/maintenance", Prefer="wait=30")
    vms = [
        pair.make(f"vm{number:02}", high_availability={"priority": number + 1})
        for number in range(count)
    ]
    pair.start(*vms)
    product.post(f"/v1/hosts/{left.id}/activate")
    left.await_up()
    lost.machine.power_off()
    off = dt.datetime.now(dt.UTC)
    product.await_status(f"/v1/hosts/{lost.id}", "non_responsive", timeout_s=PATIENCE_S)
    pair.confirm_off(lost)
    found: dict[str, dt.datetime] = {}

    def all_run() -> bool:
        now = dt.datetime.now(dt.UTC)
        for vm in left.machine.qemu_pids():
            found.setdefault(vm, now)
        return len(found) == count

    wait_until(all_run, PATIENCE_S, "QEMU on the other host", detail=product.last_words)
    for vm in vms:
        product.await_status(f"/v1/vms/{vm}", "up", timeout_s=PATIENCE_S)
    silent = min(time for time in _times_of(product, "VDS_FAILURE") if time > off)
    (proved,) = _times_of(product, "USER_CLEAR_UNKNOWN_VMS")
    placed = _times_of(product, "USER_STARTED_VM")[-count:]
    up = _times_of(product, "USER_RUN_VM")[-count:]
    first = min(found.values())
    _show("failover: silence is noticed, over its time-out", off, silent, silent_s)
    _show("failover: proof to the first VM's new host", proved, min(placed), 1.0)
    _show("failover: proof to the last VM's new host", proved, max(placed), 1.0)
    _show("failover: proof to the first QEMU", proved, first, 1.0)
    _show("failover: proof to the last QEMU", proved, max(found.values()), 1.0)
    _show("failover: power lost to the first QEMU, over the time-out", off, first, silent_s)
    _show("failover: power lost to the last guest up, over the time-out", off, max(up), silent_s)


def _show(what: str, begin: dt.datetime, end: dt.datetime, raw_s: float) -> None:
    compare(13, what, (end - begin).total_seconds(), raw_s, "s")


def _times_of(product: Product, name: str) -> list[dt.datetime]:
    """Return when an audit record was written, each time, in order."""
    items = product.items("/v1/events", name=name, sort="position")
    return [dt.datetime.fromisoformat(item["time"]) for item in items]


if __name__ == "__main__":
    main()
