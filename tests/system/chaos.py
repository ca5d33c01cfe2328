"""`python -m tests.system.chaos --minutes N --seed S`: everything real, and everything goes wrong.

The whole product on PostgreSQL, Kafka, a mail server, an SNMP manager, simulated hosts and one real
libvirt host with guests that stamp their disks; commands all the time; and one fault after another,
two at once now and then. Then everything must come to rest by itself, and what is left must be what
CONTRACTS.md says (chaos_checks.py). A seed gives the same faults in the same order, not the same
instants: processes keep their own time.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

import httpx

from tests.conftest import COMPONENTS
from tests.harness.guest import Guest, build_guest
from tests.harness.kafka import KafkaBroker
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.smtp import SmtpReceiver
from tests.harness.snmp import SnmpReceiver
from tests.harness.stamps import assert_single_writer, read_stamps
from tests.harness.workspace import Workspace
from tests.system.chaos_checks import (
    Truth,
    check_all,
    check_keys,
    check_notifications,
)
from tests.system.chaos_faults import Fault, catalogue, in_turn
from tests.system.chaos_load import Comings
from tests.system.commander import Commander
from tests.system.product import Product
from tests.system.real_host import RealHost, vm_body
from tests.system.stage import Parts, Stage, set_stage

TIME_SCALE = 0.1
EVENT = "USER_RUN_VM"
HOSTS = 2
CYCLING_VMS = 6
COMERS = 2
BOTH_AT_ONCE = 0.3
PAUSE_MIN_S, PAUSE_MAX_S = 0.2, 3.0
REST_EVERY_S = 300.0
ANSWERS_TIMEOUT_S = 200.0
Tell = Callable[[str], None]


class Load:
    """Who sends commands meanwhile, and what runs on the real host all the time."""

    def __init__(self, stage: Stage, dice: random.Random) -> None:
        product = stage.product
        self.keys: dict[str, int | None] = {}
        self.guests = {
            vm: stage.host.qemu(vm) for vm in start_real_vms(product, stage.host, stage.guest)
        }
        self._product = product
        self._dice = dice
        self._cluster = product.cluster()
        self._cycling = [
            product.post("/v1/vms", {"name": f"sim{n}", "cluster": self._cluster})["id"]
            for n in range(CYCLING_VMS)
        ]
        self._rounds = 0
        self._commander: Commander | None = None
        self._comings: list[Comings] = []

    def begin(self) -> None:
        """Let commands flow."""
        self._rounds += 1
        self._commander = Commander(
            self._product,
            self._cycling,
            prefix=f"cycle{self._rounds}",
            answer_timeout_s=ANSWERS_TIMEOUT_S,
        )
        self._comings = [
            Comings(
                self._product,
                f"comer{n}-{self._rounds}",
                self._cluster,
                random.Random(self._dice.random()),
            )
            for n in range(COMERS)
        ]
        self._commander.start()
        for coming in self._comings:
            coming.start()

    def end(self) -> int:
        """Stop, once all that was sent is answered; return how many commands were accepted."""
        assert self._commander is not None
        before = len(self.keys)
        sent = self._commander.finish(ANSWERS_TIMEOUT_S + 30)
        self.keys |= {one.key: None for one in sent if httpx.codes.is_success(one.status)}
        for coming in self._comings:
            self.keys |= coming.finish(2 * ANSWERS_TIMEOUT_S).keys
        return len(self.keys) - before


def start_real_vms(product: Product, host: RealHost, guest: Guest) -> list[str]:
    """Start two VMs on the real host, which stamp their disks."""
    vms = []
    for number in (1, 2):
        body = vm_body(product, guest, f"real{number}", f"10.88.0.3{number}", disk=True)
        created = product.post("/v1/vms", body | {"host": host.id})
        assert product.finish(created)["status"] == "succeeded"
        started = product.finish(product.post(f"/v1/vms/{created['id']}/start"))
        assert started["status"] == "succeeded", started
        vms.append(created["id"])
    return vms


def do_faults(faults: Sequence[Fault], dice: random.Random, tell: Tell) -> None:
    """Do these faults, one after another; now and then two at once."""
    waiting = list(faults)
    while waiting:
        now = [waiting.pop(0)]
        if waiting and dice.random() < BOTH_AT_ONCE and not now[0].overlaps(waiting[0]):
            now.append(waiting.pop(0))
        tell(" and ".join(fault.name for fault in now))
        _at_once([_with_dice(fault, random.Random(dice.random())) for fault in now])
        time.sleep(dice.uniform(PAUSE_MIN_S, PAUSE_MAX_S))


def _with_dice(fault: Fault, dice: random.Random) -> Callable[[], object]:
    return lambda: fault.act(dice)


def _at_once(works: Sequence[Callable[[], object]]) -> None:
    errors: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def check_stage(stage: Stage, load: Load) -> Truth:
    """Check everything, the load over: the stage must come to rest by itself."""
    product, host = stage.product, stage.host
    truth = check_all(product, stage.parts.kafka)
    check_keys(truth, load.keys)
    assert {vm: host.qemu(vm) for vm in load.guests} == load.guests, (
        "a guest did not live through it"
    )
    for vm in load.guests:
        product.await_status(f"/v1/vms/{vm}", "up")
        (disk,) = host.storage.glob(f"{vm}/*.qcow2")
        assert_single_writer(read_stamps(disk))
    check_notifications(product, truth, stage.parts.smtp, stage.parts.snmp, EVENT)
    return truth


def run_chaos(stage: Stage, seed: int, seconds: float, tell: Tell) -> None:
    """Do faults for so long, and check everything every five minutes and at the end."""
    dice = random.Random(seed)
    faults = in_turn(catalogue(stage), dice)
    load = Load(stage, dice)
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        load.begin()
        rests_at = min(ends_at, time.monotonic() + REST_EVERY_S)
        while time.monotonic() < rests_at:
            do_faults([next(faults), next(faults)], dice, tell)
        tell("rest")
        commands = load.end()
        truth = check_stage(stage, load)
        tell(f"all holds: {truth.head} events, {commands} commands accepted since the last rest")


@contextlib.contextmanager
def real_parts() -> Iterator[tuple[Parts, LibvirtHost, Guest]]:
    """Start what the product is put between, outside of pytest."""
    with contextlib.ExitStack() as stack:
        workspace = Workspace()
        stack.callback(workspace.close)
        network = HostNetwork(workspace)
        stack.callback(network.close)
        kafka, smtp, snmp = (
            KafkaBroker(workspace),
            SmtpReceiver(workspace),
            SnmpReceiver(workspace),
        )
        for part in (kafka, smtp, snmp):
            stack.callback(part.stop)
            part.start()
        machine = LibvirtHost(workspace, network)
        stack.callback(machine.stop)
        machine.start()
        parts = Parts(workspace=workspace, network=network, kafka=kafka, smtp=smtp, snmp=snmp)
        yield parts, machine, build_guest()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="tests.system.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    for name in ("libvirt", "kafka", "snmptrapd"):
        why = COMPONENTS[name]()
        if why is not None:
            sys.exit(f"{name}: {why}")
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # it warns at each mail
    warnings.simplefilter("ignore")  # of sockets, which kafka-python leaves open
    seed = arguments.seed if arguments.seed is not None else random.randrange(1_000_000)
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)  # noqa: T201

    tell(f"seed {seed}")
    with (
        real_parts() as (parts, machine, guest),
        set_stage(parts, machine, guest, time_scale=TIME_SCALE, event=EVENT, hosts=HOSTS) as stage,
    ):
        run_chaos(stage, seed, 60 * arguments.minutes, tell)


if __name__ == "__main__":
    main()
