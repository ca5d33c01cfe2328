"""Two real hosts that share a storage folder, for tests that move VMs between them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import free_port, wait_until
from tests.harness.stamps import assert_single_writer, read_stamps
from tests.harness.workspace import Workspace
from tests.system.product import Json, Product
from tests.system.real_host import RealHost, vm_body

MIB = 1024**2
TIME_SCALE = 0.2
SETTINGS = """
time_scale = 0.2
[api]
host = "{address}"
[gateway]
host = "{address}"
port = {port}
"""
SLOW_MIB_PER_S = 8
LOOK_S = 0.3
"""A look at a disk takes a copy of it: others need the processor more."""
GIB_PER_S = 1_024


class Moving:
    """A VM with a disk that stamps, and the two hosts: the one that it runs on first."""

    def __init__(self, pair: tuple[RealHost, RealHost], vm: str, name: str, disk: Path) -> None:
        self.product = pair[0].product
        self.source, self.destination = pair
        self.vm = vm
        self.name = name
        self.disk = disk

    def virsh(self, *words: str, check: bool = True) -> str:
        """Run virsh on the source; return what it says, also where it fails if not `check`."""
        machine = self.source.machine
        answer = machine.run(["virsh", "-q", "-c", machine.uri, *words], check=check)
        return answer.stdout + answer.stderr

    def look(self) -> str:
        """Return how both hosts' QEMU see the VM, for a failure to be understood."""
        seen = [f"{self.document()}"]
        for host in (self.source, self.destination):
            machine = host.machine
            for words in (
                ["domstate", "--reason", self.vm],
                ["qemu-monitor-command", self.vm, "--hmp", "info status"],
                ["qemu-monitor-command", self.vm, "--hmp", "info registers"],
            ):
                answer = machine.run(["virsh", "-q", "-c", machine.uri, *words], check=False)
                seen.append(f"{host.name}: {' '.join(words)}: {answer.stdout[:800]}{answer.stderr}")
        return "\n".join(seen)

    def slow_down(self) -> None:
        """Let the memory be copied so slowly that there is time for a fault."""
        self.virsh("migrate-setspeed", self.vm, str(SLOW_MIB_PER_S))

    def hurry(self) -> None:
        """Let the memory be copied as fast as can be."""
        self.virsh("migrate-setspeed", self.vm, str(GIB_PER_S))

    def migrate(self) -> Json:
        """Ask for the migration, and return once the destination takes the VM in."""
        body = {"host": self.destination.id}
        asked = self.product.post(f"/v1/vms/{self.vm}/migrate", body)
        self.await_copying()
        return asked

    def await_copying(self) -> None:
        """Wait until memory is being copied."""
        wait_until(
            lambda: (
                self.vm in self.destination.machine.qemu_pids()
                and "Memory processed" in self.virsh("domjobinfo", self.vm)
            ),
            30,
            "memory to be copied",
            detail=self.look,
        )

    def await_switch_over(self) -> None:
        """Have the memory copied while the destination's libvirtd stands still: QEMU is done, and
        the source is stopped and waits for the destination's word.
        """
        self.destination.machine.pause_libvirtd()
        self.hurry()
        self.await_stopped("paused (migrating)")

    def begin_post_copy(self) -> None:
        """Have libvirt begin post-copy, as the agent does where copying stalls."""

        def begun() -> bool:
            self.virsh("migrate-postcopy", self.vm, check=False)
            return self.state() == "paused (post-copy)"

        wait_until(begun, 30, "post-copy to begin")

    def hurry_post_copy(self) -> None:
        """Let the rest of the memory be copied as fast as can be, once it is copied again."""

        def copied() -> bool:
            return self.state() not in {"paused (post-copy failed)", "paused (post-copy)"} or (
                not self.virsh(
                    "migrate-setspeed", "--postcopy", self.vm, str(GIB_PER_S), check=False
                ).startswith("error")
                and self.state() == "paused (post-copy)"
            )

        wait_until(copied, 60, "post-copy to go on")

    def cut_line(self) -> None:
        """Let the two hosts not reach each other; the engine reaches both."""
        for here, there in ((self.source, self.destination), (self.destination, self.source)):
            here.machine.run(["ip", "route", "replace", "blackhole", there.machine.address])

    def audit(self) -> list[Json]:
        """Return the audit records about the VM."""
        return self.product.items("/v1/events", object=self.vm)

    def await_stopped(self, state: str) -> None:
        """Wait until the source's libvirt calls the VM so."""
        wait_until(lambda: self.state() == state, 30, state)

    def state(self) -> str:
        """Return what the source's libvirt calls the VM."""
        return self.virsh("domstate", "--reason", self.vm, check=False).strip()

    def document(self) -> Json:
        """Return the VM's document."""
        return self.product.get(f"/v1/vms/{self.vm}")

    def attention(self, asked: Json, words: str, timeout_s: float = 60) -> Json:
        """Wait until the operation calls for attention in these words; return all it says."""
        path = f"/v1/operations/{asked['operation']['id']}"

        def said() -> bool:
            attention = self.product.get(path)["attention"]
            return attention is not None and words in attention["reason"]

        wait_until(said, timeout_s, f"attention: {words}")
        found: Json = self.product.get(path)["attention"]
        return found

    def goes_on(self, where: str | None = None) -> str:
        """Check that the VM comes to run on one host, and stamps; return the host's name."""
        document = self.product.await_status(f"/v1/vms/{self.vm}", "up", timeout_s=60)
        name: str = document["host"]["name"]
        assert where is None or name == where
        wait_until(lambda: len(self.document()["may_run_on"]) == 1, 40, "one place that counts")
        before = len(read_stamps(self.disk))

        def stamping() -> bool:
            return len(read_stamps(self.disk)) > before + 5

        wait_until(stamping, 60, "new stamps", interval_s=LOOK_S, detail=self.look)
        pids = [h for h in (self.source, self.destination) if self.vm in h.machine.qemu_pids()]
        assert [host.name for host in pids] == [name]
        return name

    def finish(self, boots: int = 1) -> None:
        """Power the VM off, and check that it never wrote from two hosts."""
        self.product.post(f"/v1/vms/{self.vm}/stop", Prefer="wait=30")
        self.product.await_status(f"/v1/vms/{self.vm}", "down")
        stamps = read_stamps(self.disk)
        assert_single_writer(stamps)
        assert len({stamp.boot for stamp in stamps}) == boots


def open_pair(
    workspace: Workspace, network: HostNetwork, guest: Guest
) -> Iterator[tuple[RealHost, RealHost]]:
    """Start the product and two hosts that take part in migrations; for a fixture."""
    address = network.address
    settings = SETTINGS.format(address=address, port=free_port())
    product = Product(workspace, "product", settings, hosts=0)
    product.start()
    shared = workspace.make_folder("shared")
    (shared / "storage-id").write_text("one-folder\n")
    hosts: list[RealHost] = []
    try:
        for number, name in enumerate(("kvm01", "kvm02"), start=1):
            machine = LibvirtHost(workspace, network, number)
            machine.start()
            host = RealHost(product, machine, name)
            host.storage, host.migrates, host.time_scale = shared, True, TIME_SCALE
            if not hosts:
                host.stock(guest)
            hosts.append(host)
            host.enrol()
            host.start_agent()
            host.await_up()
        yield hosts[0], hosts[1]
    finally:
        product.stop()
        for host in hosts:
            host.machine.stop()


def mend(pair: tuple[RealHost, RealHost]) -> None:
    """Bring both hosts, their libvirtd and their agents back, whatever became of them."""
    for host in pair:
        host.machine.power_on()
        host.machine.resume_libvirtd()
        host.machine.join_again()
        for other in pair:
            host.machine.run(
                ["ip", "route", "delete", "blackhole", other.machine.address], check=False
            )
        if not host.agent.running:
            host.start_agent()
    for host in pair:
        host.machine.wait_for_libvirtd()
        if not host.agent.running:  # libvirt's library may crash when a frozen libvirtd goes on
            host.start_agent()
        host.await_up()


def started(
    pair: tuple[RealHost, RealHost],
    guest: Guest,
    name: str,
    *,
    scribble_mib: int = 0,
    **more: object,
) -> Moving:
    """Return a VM with a disk that stamps, up on one of the two hosts.

    A test that is tried again finds the VM of its first try: names are new each time.
    """
    product = pair[0].product
    name = f"{name}-{secrets.token_hex(2)}"
    known = set(pair[0].storage.glob("*/*.qcow2"))
    body = vm_body(product, guest, name, "10.88.0.31", disk=True, scribble_mib=scribble_mib) | dict(
        more
    )
    created = product.post("/v1/vms", body)
    assert product.finish(created)["status"] == "succeeded"
    vm = str(created["id"])
    begun = product.post(f"/v1/vms/{vm}/start", Prefer="wait=60")
    assert product.finish(begun)["status"] == "succeeded"
    where = product.await_status(f"/v1/vms/{vm}", "up")["host"]["name"]
    source, destination = sorted(pair, key=lambda host: host.name != where)
    (disk,) = set(pair[0].storage.glob("*/*.qcow2")) - known
    return Moving((source, destination), vm, name, disk)
