"""Two engines, one of which installs a machine over SSH: the other goes on, and never both."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest

from chronovisor.installation import Installation
from events.types.host_ssh import HostSshBegun, HostSshEnded, HostSshStep
from tests.conftest import require
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.processes import accepts_connections, free_port, send_signal, wait_until
from tests.harness.ssh_machine import SshMachine
from tests.harness.workspace import Workspace
from tests.system.chaos_checks import Truth
from tests.system.product import Json, Product
from tests.system.switch import Switch
from tests.system.test_engines import Second

pytestmark = pytest.mark.timeout(300)
SETTINGS = """
time_scale = 0.2
[api]
host = "{first}"
names = ["{front}", "{first}", "{second}"]
[gateway]
host = "{first}"
port = {gateway_port}
address = "{front}"
"""
TAKEN = "an order over SSH is taken"
WORKS = """
echo "begun $$" >>/run/tar.log
if mkdir /run/tar.held 2>/dev/null; then
  while [ ! -e /run/tar.free ]; do sleep 0.05; done
fi
/usr/bin/tar "$@"
status=$?
echo "ended $$" >>/run/tar.log
exit $status
"""
"""What stands for tar on the machine: the first call waits to be let go, and each leaves a record.

Unlike the harness's `hold`, it goes on holding when another worker's script calls it meanwhile."""


@dataclass
class Engines:
    """Two engines behind a switch, and a machine that becomes a host."""

    product: Product
    second: Second
    machine: SshMachine
    switch: Switch
    first: tuple[tuple[str, int], ...]
    """Where the first engine listens."""

    def begin(self) -> Json:
        """Have the first engine install the machine, and hold it in the midst of a step."""
        self.machine.fake_program("tar", WORKS)
        answer = self.product.post(
            "/v1/hosts",
            {
                "name": "kvm01",
                "cluster": self.product.cluster(),
                "address": self.machine.address,
                "password": self.machine.password,
            },
        )
        wait_until(
            lambda: self.works() == ["begun"],
            60,
            "the script to be held",
            detail=self.product.last_words,
        )
        return answer

    def works(self) -> list[str]:
        """Return what the held program did, in order."""
        return [line.split()[0] for line in self.machine.read("/run/tar.log").splitlines()]

    def let_go(self) -> None:
        self.machine.host.run(["touch", "/run/tar.free"])

    def logged(self) -> list[HostSshBegun | HostSshStep | HostSshEnded]:
        """Return what workers wrote into the log of the installation, in order."""
        kinds = (HostSshBegun, HostSshStep, HostSshEnded)
        return [one.event for one in Truth(self.product).events if isinstance(one.event, kinds)]


@pytest.fixture
def engines(
    workspace: Workspace,
    host_network: HostNetwork,
    make_libvirt_host: Callable[[], LibvirtHost],
) -> Iterator[Engines]:
    require("libvirt")
    require("sshd")
    port, gateway_port = free_port(), free_port()
    first = host_network.address
    second, front = host_network.another_address(2), host_network.another_address(3)
    switch = Switch({(front, at): [(first, at), (second, at)] for at in (port, gateway_port)})
    settings = SETTINGS.format(first=first, second=second, front=front, gateway_port=gateway_port)
    product = Product(workspace, "engines", settings, hosts=0)
    other = Second(product, workspace, "engine", port, second)
    machine = SshMachine(make_libvirt_host())
    machine.prepare()
    switch.start()
    try:
        product.start(port)
        # The first has the worker's place before the second comes.
        wait_until(lambda: place_is_taken(product), 20, "the first engine to have the place")
        other.start()
        for at in (port, gateway_port):
            wait_until(lambda at=at: accepts_connections(at, second), 40, "the second engine")  # type: ignore[misc]
        listens = ((first, port), (first, gateway_port))
        yield Engines(product, other, machine, switch, listens)
    finally:
        other.end(signal.SIGKILL)
        product.stop()
        switch.stop()


def place_is_taken(product: Product) -> bool:
    with psycopg.connect(Installation.open(product.root).dsn()) as connection:
        row = connection.execute(
            "select count(*) from pg_locks where locktype = 'advisory' and granted and objsubid = 1"
            " and (classid::bigint << 32 | objid::bigint) = hashtext('chronovisor ssh')::bigint"
        ).fetchone()
    return row == (1,)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_other_engine_carries_an_installation_on_and_never_beside_the_first(
    engines: Engines, how: signal.Signals
) -> None:
    """given a worker that dies, or stands still and comes back, then one at a time works"""
    product = engines.product
    answer = engines.begin()
    assert engines.second.said(TAKEN) == 0
    first = product.pid("engine")
    os.kill(first, how)
    if how is signal.SIGSTOP:  # a balancer sees that it does not answer
        for address in engines.first:
            engines.switch.take_out(address)
    try:
        wait_until(lambda: engines.second.said(TAKEN) == 1, 30, "the second engine to take it")
        # What the first one's script holds still goes on; the second one's waits for its end.
        over = time.monotonic() + 4
        while time.monotonic() < over:
            assert engines.works() == ["begun"]
            time.sleep(0.2)
        engines.let_go()
        operation = product.finish(answer, timeout_s=120)
    finally:
        if how is signal.SIGSTOP:
            send_signal(first, signal.SIGCONT)
    assert operation["status"] == "succeeded", operation
    assert [step["status"] for step in operation["steps"]] == ["done"] * 10
    host = str(answer["id"])
    product.await_status(f"/v1/hosts/{host}", "up")

    time.sleep(3)  # what the first one does when it comes back
    works = engines.works()
    assert works == ["begun", "ended"] * (len(works) // 2), "two scripts at once"
    logged = engines.logged()
    begun = [number for number, each in enumerate(logged) if isinstance(each, HostSshBegun)]
    workers = [each.worker for each in logged if isinstance(each, HostSshBegun)]
    assert len(set(workers)) == 2
    assert len(begun) == 2, "somebody took it up again"
    assert isinstance(logged[-1], HostSshEnded)
    done = [each.step for each in logged if isinstance(each, HostSshStep) and each.done]
    assert sorted(done) == sorted(set(done)), "a step was told twice"
    assert product.get(f"/v1/hosts/{host}")["status"] == "up"
    assert "hostagent run" in engines.machine.processes()


def test_a_step_that_fails_at_the_second_engine_is_taken_back_with_its_cause(
    engines: Engines,
) -> None:
    product = engines.product
    answer = engines.begin()
    product.kill("engine")
    wait_until(lambda: engines.second.said(TAKEN) == 1, 30, "the second engine to take it")
    listens = 'LISTEN 0 9 0.0.0.0:16509 0.0.0.0:* users:(("libvirtd",pid=7,fd=7))'
    engines.machine.fake_program("ss", f"echo '{listens}'")
    engines.let_go()
    operation = product.finish(answer, timeout_s=120)
    assert operation["status"] == "failed", operation
    assert "libvirt listens on the network (0.0.0.0:16509)" in operation["reason"]
    assert engines.machine.traces() == set()
