"""Machines become hosts over SSH: a real sshd, a real libvirt, a real agent out of its bundle."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator

import httpx
import pytest

from chronovisor.contexts import source_for
from chronovisor.installation import Installation
from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.handler import Handler
from commands.state.host import HOST
from events.codec import CODEC
from events.log.postgres import PostgresLog
from events.log.reader import PostgresLogReader
from events.types.host_ssh import HostSshEnded, HostSshOrdered, SshTask
from tests.conftest import require
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.package_repository import DRAWN_IN, NEEDED
from tests.harness.processes import free_port, wait_until
from tests.harness.ssh_machine import ADMIN, KEYLESS, SshMachine
from tests.harness.workspace import Workspace
from tests.system.product import Json, Product
from tests.system.real_host import IMAGE, INITRD, KERNEL, vm_body

pytestmark = pytest.mark.timeout(300)
SETTINGS = """
time_scale = 0.2
[api]
host = "{address}"
[gateway]
host = "{address}"
port = {port}
"""
CHAIN = "type filter hook input priority 0; policy accept;"


@pytest.fixture
def product(workspace: Workspace, host_network: HostNetwork) -> Iterator[Product]:
    """The product, where the machines reach it."""
    require("libvirt")
    require("sshd")
    settings = SETTINGS.format(address=host_network.address, port=free_port())
    product = Product(workspace, "product", settings, hosts=0)
    product.start()
    try:
        yield product
    finally:
        product.stop()


@pytest.fixture
def machine(product: Product, make_libvirt_host: Callable[[], LibvirtHost]) -> SshMachine:
    """A machine with sshd, and with nothing of ours."""
    machine = SshMachine(make_libvirt_host())
    machine.prepare()
    return machine


def add(product: Product, machine: SshMachine, name: str = "kvm01", **more: object) -> Json:
    """Add the machine as a host, by its root's password unless something else is said."""
    product.ignore_cpu_load()
    body: Json = {
        "name": name,
        "cluster": product.cluster(),
        "address": machine.address,
        "password": machine.password,
        **more,
    }
    return product.post("/v1/hosts", {key: value for key, value in body.items() if value})


def install(product: Product, machine: SshMachine, host: str, **more: object) -> Json:
    """Order the installation again, with the root's password unless something else is said."""
    body: Json = {"password": machine.password, **more}
    body = {key: value for key, value in body.items() if value is not None}
    return product.post(f"/v1/hosts/{host}/install", body)


def ended(product: Product, answer: Json, status: str = "succeeded") -> Json:
    """Wait for the end of an operation, and require how it ended."""
    operation = product.finish(answer, timeout_s=120)
    assert operation["status"] == status, operation
    return operation


def choose_firewall(product: Product, firewall: str) -> None:
    """Set the firewall that the cluster's hosts are to have."""
    path = f"/v1/clusters/{product.cluster()}"
    product.http.patch(path, json={"firewall_type": firewall}).raise_for_status()


def messages(product: Product, name: str) -> list[str]:
    """Return the messages of the audit records of a name."""
    found = product.items("/v1/events", name=name, limit="100")
    return [item["message"] for item in found]


def test_a_bare_machine_becomes_a_host_that_runs_a_guest_and_gives_everything_back(
    product: Product, machine: SshMachine, guest: Guest
) -> None:
    answer = add(product, machine)
    host = str(answer["id"])
    operation = ended(product, answer)
    assert [step["status"] for step in operation["steps"]] == ["done"] * 10
    shown = product.await_status(f"/v1/hosts/{host}", "up")
    assert shown["ssh"]["fingerprint"] == machine.fingerprint()
    assert shown["ssh"]["installed"]

    told = " ".join(messages(product, "VDS_INSTALL_IN_PROGRESS"))
    for words in ("Nothing is missing", "was fetched", "joined with its certificate", "is heard"):
        assert words in told
    assert messages(product, "VDS_INSTALL") == ["Host kvm01 was installed."]
    assert machine.password not in (product.root / "log" / "engine.log").read_text()
    wait_until(lambda: product.count_secrets() == 0, 20, "the password to be forgotten")
    assert "token" not in machine.processes()
    assert machine.read("/var/lib/chronovisor-install/*/token") == ""

    stock(machine, guest)
    created = product.post("/v1/vms", vm_body(product, guest, "web01", "10.88.0.51", disk=True))
    ended(product, created)
    vm = created["id"]
    ended(product, product.post(f"/v1/vms/{vm}/start", Prefer="wait=60"))
    product.await_status(f"/v1/vms/{vm}", "up")
    qemu = machine.host.qemu_pids()[vm]

    # What is to become of it is refused while it is in service; in maintenance it is brought up to
    # date with the engine's own key, and its disks stay when the agent goes.
    refused = product.http.post(f"/v1/hosts/{host}/install", json={})
    assert refused.status_code == httpx.codes.CONFLICT
    assert machine.host.qemu_pids()[vm] == qemu
    ended(product, product.post(f"/v1/vms/{vm}/shutdown"))
    product.await_status(f"/v1/vms/{vm}", "down")
    ended(product, product.post(f"/v1/hosts/{host}/maintenance"))
    key = shown["key_fingerprint"]
    ended(product, product.post(f"/v1/hosts/{host}/install"))
    assert product.await_status(f"/v1/hosts/{host}", "maintenance")["key_fingerprint"] == key
    ended(product, product.post(f"/v1/hosts/{host}/uninstall"))
    gone = product.await_status(f"/v1/hosts/{host}", "installing")
    assert not gone["joined"]
    assert "hostagent" not in machine.processes()
    state = "/var/lib/chronovisor-agent"
    left = {path for path in machine.traces() if not path.startswith(f"{state}/storage")}
    assert left == {state}
    assert list(machine.storage.glob("*/*.qcow2"))


def test_who_is_not_let_in_changes_nothing(product: Product, machine: SshMachine) -> None:
    """given a wrong password, a user without sudo, a foreign key, then nothing is left there"""
    answer = add(product, machine, password="not the password")
    host = str(answer["id"])
    operation = ended(product, answer, "failed")
    assert "does not let user root in with the password" in operation["reason"]
    shown = product.await_status(f"/v1/hosts/{host}", "install_failed")
    assert "does not let user root in" in shown["status_reason"]
    (told,) = messages(product, "VDS_INSTALL_FAILED")
    assert "not the password" not in told

    operation = ended(product, install(product, machine, host, ssh_user=KEYLESS), "failed")
    assert "may not use sudo" in operation["reason"]
    operation = ended(product, install(product, machine, host, password=None), "failed")
    assert "with the engine's key" in operation["reason"]
    assert machine.traces() == set()

    ended(product, install(product, machine, host, ssh_user="root"))
    assert product.await_status(f"/v1/hosts/{host}", "up")["ssh"]["failed"] == ""
    traces = machine.traces()

    operation = ended(product, add(product, machine, name="kvm02"), "failed")
    assert "is host kvm01 already" in operation["reason"]
    assert machine.traces() == traces
    assert product.get(f"/v1/hosts/{host}")["status"] == "up"


def test_a_machine_that_shows_another_key_is_told_nothing(
    product: Product, machine: SshMachine
) -> None:
    wrong = "SHA256:" + "A" * 43
    answer = add(product, machine, fingerprint=wrong)
    host = str(answer["id"])
    operation = ended(product, answer, "failed")
    assert wrong in operation["reason"]
    assert "assword" not in machine.log()

    # Any of the machine's keys will do, if an admin names it; from then on only that one does.
    ended(product, install(product, machine, host, fingerprint=machine.fingerprint("rsa")))
    shown = product.await_status(f"/v1/hosts/{host}", "up")
    assert shown["ssh"]["fingerprint"] == machine.fingerprint("rsa")

    ended(product, product.post(f"/v1/hosts/{host}/maintenance"))
    before = machine.fingerprint("rsa")
    machine.change_key()
    operation = ended(product, install(product, machine, host), "failed")
    assert before in operation["reason"]
    assert machine.fingerprint("rsa") in operation["reason"]
    assert "assword" not in machine.log()
    (_first, told) = messages(product, "HOST_SSH_KEY_REFUSED")
    assert "kvm01" in told

    given = machine.fingerprint()
    ended(product, install(product, machine, host, fingerprint=given))
    assert product.get(f"/v1/hosts/{host}")["ssh"]["fingerprint"] == given


def test_a_step_that_fails_takes_back_what_was_done_and_can_be_repeated(
    product: Product, machine: SshMachine
) -> None:
    """given a machine like Enterprise Linux with nothing installed, whose packages come by dnf"""
    require("packages")
    machine.become_bare("el")
    machine.fake_program("tar", "echo 'tar: No space left on device' >&2; exit 1")
    answer = add(product, machine)
    host = str(answer["id"])
    operation = ended(product, answer, "failed")
    assert "No space left" in operation["reason"]
    by_name = {step["name"]: step["status"] for step in operation["steps"]}
    assert by_name["bundle"] == "undone"
    assert by_name["packages"] == "undone"
    assert by_name["join"] == "pending"
    assert machine.traces() == set()
    told = " ".join(messages(product, "VDS_INSTALL_IN_PROGRESS"))
    assert "Installed: libvirt-daemon-kvm" in told
    assert machine.packages("el") == set()

    machine.remove_fake("tar")
    ended(product, install(product, machine, host))
    product.await_status(f"/v1/hosts/{host}", "up")
    assert machine.packages("el") == {*NEEDED["el"], DRAWN_IN}


def test_cancelled_in_the_middle_nothing_is_left(product: Product, machine: SshMachine) -> None:
    machine.hold("tar")
    answer = add(product, machine)
    machine.await_held("tar")
    operation = answer["operation"]["id"]
    product.post(f"/v1/operations/{operation}/cancel")
    machine.let_go("tar")
    ended(product, answer, "cancelled")
    assert machine.traces() == set()
    assert product.await_status(f"/v1/hosts/{answer['id']}", "install_failed")
    assert messages(product, "HOST_INSTALL_CANCELLED")
    response = product.http.delete(f"/v1/hosts/{answer['id']}")
    assert response.is_success, response.text


def test_an_engine_killed_in_the_middle_is_carried_on_by_the_next(
    product: Product, machine: SshMachine
) -> None:
    """given an engine killed while it installs, or undoes, then it is brought to an end"""
    machine.hold("tar")
    answer = add(product, machine)
    host = str(answer["id"])
    machine.await_held("tar")
    product.kill("engine")
    machine.let_go("tar")
    operation = ended(product, answer)
    assert [step["status"] for step in operation["steps"]] == ["done"] * 10
    product.await_status(f"/v1/hosts/{host}", "up")
    for words in ("was there already", "was fetched"):
        assert sum(words in told for told in messages(product, "VDS_INSTALL_IN_PROGRESS")) <= 1

    ended(product, product.post(f"/v1/hosts/{host}/maintenance"))
    ended(product, product.post(f"/v1/hosts/{host}/uninstall"))
    machine.fake_program("tar", "exit 1")
    machine.hold("comm")
    again = install(product, machine, host)
    machine.await_held("comm")
    product.kill("engine")
    machine.let_go("comm")
    ended(product, again, "failed")
    assert machine.traces() == set()


def test_an_admin_who_is_not_root_and_an_active_firewall(
    product: Product, machine: SshMachine
) -> None:
    """given sudo with a password, when it is done, then the agent is restarted without one"""
    machine.host.run(["nft", f"add table inet filter; add chain inet filter input {{ {CHAIN} }}"])
    choose_firewall(product, "firewalld")
    answer = add(product, machine, ssh_user=ADMIN)
    host = str(answer["id"])
    operation = ended(product, answer, "failed")
    assert "is firewalld, but nftables is active on the machine" in operation["reason"]
    (told,) = messages(product, "VDS_INSTALL_FAILED")
    assert "Start firewalld there" in told
    assert machine.traces() == set()
    assert "chronovisor-migration" not in machine.host.run(["nft", "list", "ruleset"]).stdout

    choose_firewall(product, "nftables")
    ended(product, install(product, machine, host, ssh_user=ADMIN))
    product.await_status(f"/v1/hosts/{host}", "up")
    assert "chronovisor-migration" in machine.host.run(["nft", "list", "ruleset"]).stdout
    assert f"{ADMIN} ALL=(root) NOPASSWD" in machine.read("/etc/sudoers.d/chronovisor-agent")

    before = machine.agent_pid()
    order_restart(product, host)
    wait_until(lambda: len(ends(product, host)) == 2, 60, "the order to end")
    assert ends(product, host)[-1] == (True, "")
    wait_until(lambda: machine.agent_pid() not in {0, before}, 10, "the agent to be another")

    ended(product, product.post(f"/v1/hosts/{host}/maintenance"))
    operation = ended(product, product.post(f"/v1/hosts/{host}/uninstall"), "failed")
    assert "may not use sudo" in operation["reason"]
    ended(product, product.post(f"/v1/hosts/{host}/uninstall", {"password": machine.password}))
    assert machine.traces() == set()
    assert "chronovisor-migration" not in machine.host.run(["nft", "list", "ruleset"]).stdout


def test_what_systemd_apt_and_firewalld_are_told_is_taken_back(
    product: Product, machine: SshMachine
) -> None:
    """given a stand-in for systemd, a libvirt that listens, guests that start at boot"""
    require("packages")
    require("firewalld")
    before = {"libvirtd-tls.socket", "libvirt-guests.service"}
    machine.become_systemd(*before)
    machine.become_bare("debian")
    machine.start_firewalld()
    choose_firewall(product, "firewalld")
    machine.fake_program("tar", "exit 1")
    answer = add(product, machine)
    host = str(answer["id"])
    ended(product, answer, "failed")
    assert machine.enabled() >= before
    assert machine.traces() == set()
    assert machine.packages("debian") == set()
    told = " ".join(messages(product, "VDS_INSTALL_IN_PROGRESS"))
    assert "Installed: libvirt-daemon-system" in told
    assert machine.open_ports() == ("", "")

    machine.remove_fake("tar")
    ended(product, install(product, machine, host))
    product.await_status(f"/v1/hosts/{host}", "up")
    assert machine.packages("debian") == {*NEEDED["debian"], DRAWN_IN}
    assert machine.enabled() & before == set()
    assert "chronovisor-agent.service" in machine.enabled()
    assert machine.agent_pid()
    assert machine.open_ports() == ("54329/tcp", "54329/tcp")

    ended(product, product.post(f"/v1/hosts/{host}/maintenance"))
    ended(product, product.post(f"/v1/hosts/{host}/uninstall"))
    assert machine.agent_pid() == 0
    assert machine.traces() == set()
    assert "chronovisor-agent.service" not in machine.enabled()
    assert machine.open_ports() == ("", "")


def order_restart(product: Product, host: str) -> None:
    """Order a restart of the agent over SSH, as soft fencing does."""
    ordered = HostSshOrdered(name="kvm01", order=str(uuid.uuid4()), task=SshTask.RESTART_AGENT)

    async def append() -> None:
        async with PostgresLog.open(Installation.open(product.root).dsn()) as log:

            def decide(world: World, context: Context) -> Decision:
                world.get(HOST, host)
                return Decision(id=host, events=on(HOST.stream(host), ordered))

            await Handler(log).handle(decide, source_for("test"), principal="test")

    asyncio.run(append())


def ends(product: Product, host: str) -> list[tuple[bool, str]]:
    """Return how each order over SSH ended, as the log has it."""

    async def read() -> list[tuple[bool, str]]:
        async with PostgresLogReader.open(Installation.open(product.root).dsn()) as log:
            stored = (await log.load_many({HOST.stream(host): 0}))[HOST.stream(host)]
        events = [CODEC.decode(one).event for one in stored]
        return [(one.succeeded, one.reason) for one in events if isinstance(one, HostSshEnded)]

    return asyncio.run(read())


def stock(machine: SshMachine, guest: Guest) -> None:
    """Put the guest's kernel, initrd and image into the host's storage folder."""
    place = "/var/lib/chronovisor-agent/storage"
    for source, name in (
        (guest.kernel, KERNEL),
        (guest.initrd, INITRD),
        (guest.base_disk, IMAGE),
    ):
        machine.host.run(["cp", source, f"{place}/{name}"])
