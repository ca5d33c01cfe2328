"""What is read from libvirt, the kernel and the guest's agent; the last is not trusted."""

import datetime as dt
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.driver import DriverError, Guest
from hostagent.libvirt_capabilities import bridges, domain_abilities, host_abilities, version_text
from hostagent.libvirt_guest import ADDRESSES_MAX, guest, read_guest
from hostagent.libvirt_processes import ProcessTable, Qemu, as_qemu
from hostagent.libvirt_samples import (
    memory_bytes,
    network_bytes,
    processor_ticks,
    reading,
    vm_sample,
)
from tests.unit.hostagent_libvirt.specs import VM

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
DOMAIN_CAPABILITIES = """<domainCapabilities><path>/usr/bin/qemu</path><cpu>
<mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model></mode>
<mode name='custom' supported='yes'><model usable='yes'>Westmere</model>
<model usable='no'>Icelake-Server</model><model usable='unknown'>core2duo</model></mode>
</cpu></domainCapabilities>"""
HOST_CAPABILITIES = """<capabilities><host><cpu><arch>x86_64</arch><model>EPYC-Rome</model></cpu>
</host><guest><os_type>hvm</os_type><arch name='i686'><machine>pc-q35-1.0</machine></arch></guest>
<guest><os_type>hvm</os_type><arch name='x86_64'><machine canonical='pc-q35-10.0'>q35</machine>
<machine>pc-i440fx-7.2</machine><machine>pc-q35-7.2</machine><machine>pc-q35-10.0</machine>
<domain type='qemu'/><domain type='kvm'><machine>pc-q35-7.2</machine></domain></arch></guest>
</capabilities>"""


class TestCapabilities:
    def test_only_models_that_can_be_given_in_full(self) -> None:
        abilities = domain_abilities(DOMAIN_CAPABILITIES)
        assert abilities.cpu_models == ("Westmere",)
        assert abilities.host_cpu_model == "EPYC"
        assert abilities.emulator == "/usr/bin/qemu"

    def test_only_exact_machines_newest_first(self) -> None:
        abilities = host_abilities(HOST_CAPABILITIES)
        assert abilities.machine_types == ("pc-q35-10.0", "pc-q35-7.2")
        assert abilities.virtualizations == ("qemu", "kvm")
        assert (abilities.architecture, abilities.cpu_model) == ("x86_64", "EPYC-Rome")

    def test_versions_and_bridges(self, tmp_path: Path) -> None:
        assert version_text(7_002_022) == "7.2.22"
        for folder in ("br1/bridge", "br0/bridge", "eth0"):
            (tmp_path / "class/net" / folder).mkdir(parents=True)
        assert bridges(tmp_path) == ("br0", "br1")


class TestGuestAgent:
    def test_what_a_guest_says(self) -> None:
        interfaces = {
            "return": [
                {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1"}]},
                {
                    "name": "eth0",
                    "hardware-address": "52:54:00:00:00:01",
                    "ip-addresses": [
                        {"ip-address": "10.0.0.5", "prefix": 24, "ip-address-type": "ipv4"},
                        {"ip-address": "fe80::1"},
                        {"ip-address": "2001:db8::5"},
                        {"ip-address": "10.0.0.5"},
                        {"ip-address": "<script>"},
                    ],
                },
                {"name": "eth1"},
            ]
        }
        system = {"return": {"pretty-name": "Debian GNU/Linux 12\n", "kernel-release": "6.1"}}
        said = guest(
            json.dumps(interfaces), '{"return": {"host-name": "web01"}}', json.dumps(system)
        )
        assert said == Guest(
            hostname="web01",
            addresses=("10.0.0.5", "2001:db8::5"),
            operating_system="Debian GNU/Linux 12",
        )

    def test_an_old_agent_knows_less(self) -> None:
        def ask(command: str, limit_s: int) -> str:
            assert 1 <= limit_s <= 3
            if command != "guest-network-get-interfaces":
                raise DriverError("the command is not known")
            return '{"return": []}'

        assert read_guest(ask, 3) == Guest()

    def test_one_that_does_not_answer_is_not_asked_on(self) -> None:
        asked = []

        def ask(command: str, limit_s: int) -> str:
            asked.append(command)
            raise DriverError("it does not answer")

        with pytest.raises(DriverError):
            read_guest(ask, 3)
        assert len(asked) == 1

    @given(st.text(max_size=80), st.text(max_size=80))
    def test_no_answer_breaks_it(self, name: str, rubbish: str) -> None:
        host_name = json.dumps({"return": {"host-name": name * 9}})
        said = guest(rubbish, host_name, rubbish)
        assert len(said.hostname) <= 255
        assert said.hostname.isprintable()

    def test_a_flood_of_addresses_is_bounded(self) -> None:
        many = [{"ip-address": f"10.0.{number // 250}.{number % 250}"} for number in range(2000)]
        said = guest(json.dumps({"return": [{"ip-addresses": many}]}), None, None)
        assert len(said.addresses) == ADDRESSES_MAX


class TestSamples:
    RECORD = {  # noqa: RUF012 - never changed
        "cpu.time": 5_000_000_000,
        "vcpu.current": 2,
        "balloon.current": 1024,
        "balloon.available": 1000,
        "balloon.usable": 400,
        "balloon.rss": 5000,
        "block.count": 2,
        "block.0.rd.bytes": 100,
        "block.1.rd.bytes": 11,
        "block.0.wr.reqs": 7,
        "net.count": 1,
        "net.0.rx.bytes": 70,
        "net.0.tx.bytes": 80,
    }

    def test_a_reading(self) -> None:
        now = reading(self.RECORD)
        assert now.memory_bytes == 1024 * 1024
        assert now.memory_used_bytes == 600 * 1024
        assert now.counters.disk_read_bytes == 111
        assert now.counters.disk_write_operations == 7
        assert now.counters.disk_write_bytes == 0
        assert (now.counters.network_receive_bytes, now.counters.network_transmit_bytes) == (70, 80)
        assert now.cpus == 2

    def test_without_the_guests_word_qemus_share_counts(self) -> None:
        record = {"balloon.maximum": 1024, "balloon.rss": 300}
        assert reading(record).memory_used_bytes == 300 * 1024
        assert reading({"balloon.maximum": 1024, "balloon.rss": 9999}).memory_used_bytes == 1 << 20
        assert reading({}).memory_used_bytes == 0

    def test_rates_are_differences(self) -> None:
        before, now = reading(self.RECORD), reading({**self.RECORD, "cpu.time": 15_000_000_000})
        now_again = reading({**self.RECORD, "block.0.rd.bytes": 1100})
        sample = vm_sample(VM, 1, NOW, now, before, 10.0)
        assert sample.cpu_percent == pytest.approx(50.0)
        sample = vm_sample(VM, 1, NOW, now_again, before, 10.0)
        assert sample.disk_read_bytes_per_s == pytest.approx(100.0)

    def test_a_first_sample_and_a_reset_counter_have_no_rates(self) -> None:
        now = reading(self.RECORD)
        assert vm_sample(VM, 1, NOW, now, None, 10.0).cpu_percent == 0.0
        more = reading({**self.RECORD, "net.0.rx.bytes": 9000})
        assert vm_sample(VM, 1, NOW, now, more, 10.0).network_receive_bytes_per_s == 0.0

    def test_the_kernels_figures(self) -> None:
        stat = "cpu  10 1 20 100 50 2 3 4 9 9\ncpu0 1 1 1 1\n"
        assert processor_ticks(stat) == (40, 190)
        assert memory_bytes("MemTotal: 100 kB\nMemAvailable:   40 kB\n") == (102400, 61440)
        net = (
            "Inter-|   Receive\n face |bytes\n"
            "    lo: 5 0 0 0 0 0 0 0 5 0 0 0 0 0 0 0\n"
            "  eth0: 100 0 0 0 0 0 0 0 200 0 0 0 0 0 0 0\n"
            "   br0: 100 0 0 0 0 0 0 0 200 0 0 0 0 0 0 0\n"
            " vnet3: 9 0 0 0 0 0 0 0 9 0 0 0 0 0 0 0\n"
        )
        assert network_bytes(net, ["br0"]) == (100, 200)


class TestProcesses:
    WORDS = ("/usr/bin/qemu-system-x86_64", "-name", f"guest={VM}", "-uuid", VM)

    def test_a_vm_is_known_by_its_command_line(self) -> None:
        strings = "type=11,value=chronovisor.incarnation=12,value=chronovisor.first_host=h"
        qemu = as_qemu(7, [*self.WORDS, "-smbios", strings])
        assert qemu == Qemu(pid=7, uuid=VM, booted_incarnation=12)
        assert qemu.ours

    def test_a_strangers_vm_is_not_ours(self) -> None:
        qemu = as_qemu(7, list(self.WORDS))
        assert qemu is not None
        assert not qemu.ours

    @pytest.mark.parametrize(
        "words",
        [[], ["qemu-system-x86_64", "-S"], ["vim", "-uuid", VM], ["qemu-system-x86_64", "-uuid"]],
    )
    def test_other_processes_are_none(self, words: list[str]) -> None:
        assert as_qemu(7, words) is None

    def test_the_own_process_table_can_be_read(self) -> None:
        table = ProcessTable()
        assert all(qemu.pid > 0 for qemu in table.qemus())
        assert (table.of_host / "net" / "dev").read_text()
        assert ProcessTable(1).of_vm(VM) == []
