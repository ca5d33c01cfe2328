"""From a pulled plug to VMs that run elsewhere, on two real libvirt hosts.

`python -m benchmarks.failover [--proof hand|fencing] [--vms 4] [--silent-s 60]`. A host with highly
available VMs loses its power; the engine notices its silence after `hosts.silent_timeout_s`; then
comes the proof that it is off. By hand it is given at once, as a person at the machine would. By
fencing the engine finds it itself: the silence settles, and the host's BMC (ipmi_sim) is asked to
turn it off, through the other host. QEMU then runs on the other host, in the order of priorities.
The count begins when the power goes. With `BENCH=full` both ways are measured. The time-out is the
default then, and by fencing always; 10 s by hand. All other settings are the defaults, but for
`hosts.grace_s`, which is shorter, and over when the plug is pulled.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
from collections.abc import Iterator

from benchmarks._report import compare
from tests.harness.guest import build_guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.fence_rig import FencedHost
from tests.system.pair import Pair, two_hosts
from tests.system.product import Product

SETTINGS = """
[hosts]
grace_s = 5
silent_timeout_s = {silent_s}
"""
PATIENCE_S = 300.0
FULL = os.environ.get("BENCH") == "full"
HAND, FENCING = "hand", "fencing"
SETTLE_S = 20.0
"""`fencing.settle_s`, by default: a part of the stated time where the proof comes by fencing."""


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="benchmarks.failover", description=__doc__)
    parser.add_argument("--proof", choices=[HAND, FENCING], help="how the host is proved off")
    parser.add_argument("--vms", type=int, default=4)
    parser.add_argument("--silent-s", type=float, help="hosts.silent_timeout_s")
    arguments = parser.parse_args()
    proofs = [HAND, FENCING] if FULL else [HAND]
    for proof in [arguments.proof] if arguments.proof else proofs:
        silent_s = arguments.silent_s or (60.0 if FULL or proof == FENCING else 10.0)
        with _pair(silent_s, fenced=proof == FENCING) as pair:
            vms = _begin(pair, arguments.vms)
            if proof == HAND:
                _by_hand(pair, vms, silent_s)
            else:
                _by_fencing(pair, vms, silent_s)


@contextlib.contextmanager
def _pair(silent_s: float, *, fenced: bool) -> Iterator[Pair]:
    """Have the product and two hosts, with BMCs that it knows of if they are to be fenced."""
    workspace = Workspace()
    with contextlib.ExitStack() as stack:
        stack.callback(workspace.close)
        network = HostNetwork(workspace)
        stack.callback(network.close)
        machines: list[LibvirtHost] = []
        managed: list[FencedHost] = []

        def make() -> LibvirtHost:
            machine = LibvirtHost(workspace, network, len(machines) + 1)
            machines.append(machine)
            stack.callback(machine.stop)
            machine.start()
            return machine

        def host_of(product: Product, machine: LibvirtHost, name: str) -> FencedHost:
            host = FencedHost(product, machine, name, workspace)
            stack.callback(host.bmc.stop)
            managed.append(host)
            return host

        settings = SETTINGS.format(silent_s=silent_s)
        with two_hosts(
            workspace,
            network,
            make,
            build_guest(),
            time_scale=1.0,
            settings=settings,
            host_of=host_of,
        ) as pair:
            if fenced:
                for host in managed:
                    host.bmc.start()
                    host.manage(workspace.make_folder("secret") / "bmc")
            yield pair


def _begin(pair: Pair, count: int) -> list[str]:
    """Have highly available VMs run on the first host, and the second one ready; return them."""
    product = pair.product
    product.post(f"/v1/hosts/{pair.second.id}/maintenance", Prefer="wait=30")
    vms = [
        pair.make(f"vm{number:02}", high_availability={"priority": number + 1})
        for number in range(count)
    ]
    pair.start(*vms)
    product.post(f"/v1/hosts/{pair.second.id}/activate")
    pair.second.await_up()
    return vms


def _by_hand(pair: Pair, vms: list[str], silent_s: float) -> None:
    """Measure with the proof given by hand as soon as the host is shown as silent."""
    off = _power_off(pair)
    pair.product.await_status(f"/v1/hosts/{pair.first.id}", "non_responsive", timeout_s=PATIENCE_S)
    pair.confirm_off(pair.first)
    first, last = _await_qemu(pair, vms)
    silent = min(time for time in _times_of(pair.product, "VDS_FAILURE") if time > off)
    (proved,) = _times_of(pair.product, "USER_CLEAR_UNKNOWN_VMS")
    placed = _times_of(pair.product, "USER_STARTED_VM")[-len(vms) :]
    up = _times_of(pair.product, "USER_RUN_VM")[-len(vms) :]
    _show("failover: silence is noticed, over its time-out", off, silent, silent_s)
    _show("failover: proof to the first VM's new host", proved, min(placed), 1.0)
    _show("failover: proof to the last VM's new host", proved, max(placed), 1.0)
    _show("failover: proof to the first QEMU", proved, first, 1.0)
    _show("failover: proof to the last QEMU", proved, last, 1.0)
    _show("failover: power lost to the first QEMU, over the time-out", off, first, silent_s)
    _show("failover: power lost to the last guest up, over the time-out", off, max(up), silent_s)


def _by_fencing(pair: Pair, vms: list[str], silent_s: float) -> None:
    """Measure with nobody there: the engine has the host turned off."""
    stated_s = silent_s + SETTLE_S
    off = _power_off(pair)
    first, last = _await_qemu(pair, vms)
    silent = min(time for time in _times_of(pair.product, "VDS_FAILURE") if time > off)
    ordered = min(_times_of(pair.product, "FENCE_OPERATION_USING_AGENT_AND_PROXY_STARTED"))
    (proved,) = _times_of(pair.product, "HOST_FENCED_OFF")
    up = _times_of(pair.product, "USER_RUN_VM")[-len(vms) :]
    _show("fenced: silence is noticed, over its time-out", off, silent, silent_s)
    _show("fenced: silence to the order to turn it off, over settling", silent, ordered, SETTLE_S)
    _show("fenced: the order to the proof that it is off", ordered, proved, 1.0)
    _show("fenced: proof to the first QEMU", proved, first, 1.0)
    _show("fenced: proof to the last QEMU", proved, last, 1.0)
    _show("fenced: power lost to the first QEMU, over what is stated", off, first, stated_s)
    _show("fenced: power lost to the last QEMU, over what is stated", off, last, stated_s)
    _show("fenced: power lost to the last guest up, over what is stated", off, max(up), stated_s)


def _power_off(pair: Pair) -> dt.datetime:
    """Pull the first host's plug; return when."""
    assert isinstance(pair.first, FencedHost)
    off = dt.datetime.now(dt.UTC)
    pair.first.bmc.pull_plug()
    return off


def _await_qemu(pair: Pair, vms: list[str]) -> tuple[dt.datetime, dt.datetime]:
    """Wait until all VMs run on the second host; return when its first and last QEMU was there."""
    product = pair.product
    found: dict[str, dt.datetime] = {}

    def all_run() -> bool:
        now = dt.datetime.now(dt.UTC)
        for vm in pair.second.machine.qemu_pids():
            found.setdefault(vm, now)
        return len(found) == len(vms)

    wait_until(all_run, PATIENCE_S, "QEMU on the other host", detail=product.last_words)
    for vm in vms:
        product.await_status(f"/v1/vms/{vm}", "up", timeout_s=PATIENCE_S)
    return min(found.values()), max(found.values())


def _show(what: str, begin: dt.datetime, end: dt.datetime, raw_s: float) -> None:
    compare(13, what, (end - begin).total_seconds(), raw_s, "s")


def _times_of(product: Product, name: str) -> list[dt.datetime]:
    """Return when an audit record was written, each time, in order."""
    items = product.items("/v1/events", name=name, sort="position")
    return [dt.datetime.fromisoformat(item["time"]) for item in items]


if __name__ == "__main__":
    main()
