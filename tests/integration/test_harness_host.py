"""The harness's libvirt host: real guests that outlive libvirtd, and stamps that do not lie."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from tests.harness.domain import DomainPlan
from tests.harness.guest import Guest
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.processes import wait_until
from tests.harness.stamps import Stamp, assert_single_writer, read_stamps

BOOT_TIMEOUT_S = 60.0

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def _quiet_libvirt() -> None:
    """libvirt prints each error to stderr unless told otherwise."""
    libvirt.registerErrorHandler(lambda *_: None, None)


@contextlib.contextmanager
def connected(host: LibvirtHost) -> Iterator[Any]:
    connection = libvirt.open(host.uri)
    try:
        yield connection
    finally:
        connection.close()


def ask_agent(domain: Any, command: str) -> Any:
    answer = libvirt_qemu.qemuAgentCommand(domain, json.dumps({"execute": command}), 2, 0)
    return json.loads(answer)["return"]


def boot(connection: Any, plan: DomainPlan) -> Any:
    """Start the guest, and return its domain when the guest's agent answers."""
    domain = connection.createXML(plan.xml())
    wait_until(
        lambda: ask_agent(domain, "guest-ping") == {},
        BOOT_TIMEOUT_S,
        f"the agent of {plan.name}",
        interval_s=0.2,
        tolerate=(libvirt.libvirtError,),
    )
    return domain


class TestLibvirtHost:
    def test_a_guest_outlives_libvirtd_and_stamps_its_disk(
        self, libvirt_host: LibvirtHost, guest: Guest
    ) -> None:
        # given a guest that stamps
        disk = guest.copy_disk(libvirt_host.images / "vm1.qcow2")
        plan = DomainPlan(
            name="vm1",
            guest=guest,
            disk=disk,
            ip4="10.88.0.5/24",
            stamp=True,
            incarnation=3,
            first_host="host-a",
        )
        with connected(libvirt_host) as connection:
            domain = boot(connection, plan)
            addresses = json.dumps(ask_agent(domain, "guest-network-get-interfaces"))
            assert "10.88.0.5" in addresses
            assert ask_agent(domain, "guest-get-host-name") == {"host-name": "vm1"}
        before = libvirt_host.qemu_processes()
        assert [(each.name, each.uuid) for each in before] == [("vm1", plan.uuid)]

        # when libvirtd is killed and comes back
        first_libvirtd = libvirt_host.libvirtd_pid()
        libvirt_host.kill_libvirtd()
        assert libvirt_host.wait_for_libvirtd() != first_libvirtd

        # then QEMU is the same one, and libvirtd knows it
        assert libvirt_host.qemu_processes() == before
        with connected(libvirt_host) as connection:
            domain = connection.lookupByName("vm1")
            assert ask_agent(domain, "guest-ping") == {}
            wait_until(lambda: len(read_stamps(disk)) >= 5, 20.0, "five stamps", interval_s=0.3)

            # and the power button ends it in order
            domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
            wait_until(lambda: not libvirt_host.qemu_pids(), 20.0, "the guest to power off")
        stamps = read_stamps(disk)
        assert {(stamp.incarnation, stamp.host) for stamp in stamps} == {(3, "host-a")}
        assert_single_writer(stamps)

    def test_power_off_is_a_pulled_plug_and_power_on_a_new_boot(
        self, libvirt_host: LibvirtHost, guest: Guest
    ) -> None:
        # given a running guest
        disk = guest.copy_disk(libvirt_host.images / "vm1.qcow2")
        plan = DomainPlan(name="vm1", guest=guest, disk=disk, stamp=True)
        boot_file = "/proc/sys/kernel/random/boot_id"
        first_boot = libvirt_host.run(["cat", boot_file]).stdout.strip()
        assert first_boot == libvirt_host.boot_id
        assert first_boot != Path(boot_file).read_text().strip()
        with connected(libvirt_host) as connection:
            boot(connection, plan)
        wait_until(lambda: read_stamps(disk), 20.0, "a stamp", interval_s=0.3)

        # when QEMU is killed, the host goes on without it
        libvirt_host.kill_qemu("vm1")
        assert libvirt_host.qemu_pids() == {}
        with connected(libvirt_host) as connection:
            boot(connection, DomainPlan(name="vm2", guest=guest, disk=disk))
        qemu = libvirt_host.qemu_pids()["vm2"]

        # when the plug is pulled
        libvirt_host.power_off()

        # then everything is gone at once, and comes back as another boot, without the guest
        assert not Path(f"/proc/{qemu}/exe").exists()
        assert not libvirt_host.on
        libvirt_host.power_on()
        assert libvirt_host.run(["cat", boot_file]).stdout.strip() == libvirt_host.boot_id
        assert libvirt_host.boot_id != first_boot
        assert libvirt_host.qemu_processes() == []
        # and a second boot of the guest goes on where the first one's stamps ended
        with connected(libvirt_host) as connection:
            boot(
                connection,
                DomainPlan(name="vm1", guest=guest, disk=disk, stamp=True, incarnation=2),
            )
            wait_until(
                lambda: {stamp.incarnation for stamp in read_stamps(disk)} == {1, 2},
                20.0,
                "stamps of the second incarnation",
                interval_s=0.3,
            )
        assert_single_writer(read_stamps(disk))

    def test_a_paused_libvirtd_answers_nothing_and_then_goes_on(
        self, libvirt_host: LibvirtHost
    ) -> None:
        probe = ["timeout", "2", "virsh", "-c", libvirt_host.uri, "list"]
        with libvirt_host.libvirtd_paused():
            assert libvirt_host.run(probe, check=False).returncode != 0
        assert libvirt_host.run(probe).returncode == 0

    def test_the_host_reaches_the_test_and_no_kvm(self, libvirt_host: LibvirtHost) -> None:
        ping = ["ping", "-c", "1", "-W", "2", libvirt_host.manager_address]
        assert libvirt_host.run(ping).returncode == 0
        libvirt_host.cut_off()
        assert libvirt_host.run(ping, check=False).returncode != 0
        libvirt_host.join_again()
        assert libvirt_host.run(ping).returncode == 0
        assert libvirt_host.run(["test", "-e", "/dev/kvm"], check=False).returncode == 1
        listening = libvirt_host.run(["ss", "-Hltn"]).stdout
        assert listening == "", "something on the host listens on the network"

    def test_two_hosts_see_each_other_but_not_each_others_processes(
        self, make_libvirt_host: Callable[[], LibvirtHost]
    ) -> None:
        one, two = make_libvirt_host(), make_libvirt_host()
        assert one.run(["ping", "-c", "1", "-W", "2", two.address]).returncode == 0
        assert not set(one.pids()) & set(two.pids())
        assert one.run(["hostname"]).stdout.strip() == "host1"
        assert two.run(["hostname"]).stdout.strip() == "host2"

    def test_a_program_on_the_host_can_be_paused_and_killed(
        self, libvirt_host: LibvirtHost, tmp_path: Path
    ) -> None:
        # given a program that counts
        log = tmp_path / "program.log"
        script = 'while :; do echo "$WORD"; sleep 0.05; done'
        program = libvirt_host.launch(["sh", "-c", script], log, environment={"WORD": "tick"})
        wait_until(lambda: log.read_text().startswith("tick"), 5.0, "the program's first word")
        assert program.pid in libvirt_host.pids()

        # when it is paused, it is silent; when it goes on, it counts on
        program.pause()
        wait_until(
            lambda: "T (stopped)" in Path(f"/proc/{program.pid}/status").read_text(),
            5.0,
            "the program to stop",
        )
        length = len(log.read_text())
        time.sleep(0.3)
        assert len(log.read_text()) == length
        program.resume()
        wait_until(lambda: len(log.read_text()) > length, 5.0, "the program to go on")

        # then a kill ends it
        program.kill()
        assert not program.running
        assert program.pid not in libvirt_host.pids()


class TestStamps:
    def test_two_copies_of_a_guest_are_found_out(
        self, libvirt_host: LibvirtHost, guest: Guest, tmp_path: Path
    ) -> None:
        # given QEMU without its image lock, which guards against just this
        disk = guest.copy_disk(libvirt_host.images / "shared.qcow2")
        kinds = ["driver=qcow2", "file.driver=file", f"file.filename={disk}", "file.locking=off"]
        machine = ["qemu-system-x86_64", "-machine", "q35", "-cpu", "qemu64", "-m", "96"]
        machine += ["-display", "none", "-kernel", str(guest.kernel), "-initrd", str(guest.initrd)]
        machine += ["-drive", ",".join([*kinds, "if=virtio", "cache=none"])]
        machine += ["-append", guest.command_line("twin", stamp=True)]
        twins = [
            libvirt_host.launch(
                [
                    *machine,
                    *("-smbios", "type=11,value=chronovisor.incarnation=4"),
                    *("-smbios", f"type=11,value=chronovisor.first_host=host-{name}"),
                ],
                tmp_path / f"{name}.log",
            )
            for name in "ab"
        ]

        # when both have written
        wait_until(
            lambda: (
                [stamp.host for stamp in read_stamps(disk)].count("host-a") > 9
                and [stamp.host for stamp in read_stamps(disk)].count("host-b") > 9
            ),
            BOOT_TIMEOUT_S,
            "stamps of both copies",
            interval_s=0.5,
        )
        for twin in twins:
            twin.kill()

        # then it shows
        with pytest.raises(AssertionError, match=r"wrote in turn|two copies|missing"):
            assert_single_writer(read_stamps(disk))

    def test_the_judgement(self) -> None:
        def stamps(*writers: tuple[int, str, int]) -> list[Stamp]:
            return [
                Stamp(incarnation=incarnation, host="h", boot=boot, counter=counter)
                for incarnation, boot, counter in writers
            ]

        assert_single_writer(stamps((1, "a", 1), (1, "a", 2), (1, "b", 1), (2, "c", 1)))
        bad = {
            "wrote in turn": stamps((1, "a", 1), (1, "b", 1), (1, "a", 2)),
            "two copies or a lost stamp": stamps((1, "a", 1), (1, "a", 2), (1, "a", 2)),
            "an older incarnation": stamps((2, "a", 1), (1, "b", 1)),
            "missing": stamps((1, "a", 2)),
            "no stamps": [],
        }
        for message, sequence in bad.items():
            with pytest.raises(AssertionError, match=message):
                assert_single_writer(sequence)
