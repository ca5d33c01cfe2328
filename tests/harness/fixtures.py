"""The harness as pytest fixtures, loaded by tests/conftest.py for every test.

Servers that take long to start live as long as the test session, and are handed to each test
running and unpaused, whatever the test before did to them; the rest is made anew for each test.
"""

import gc
import warnings
from collections.abc import Callable, Iterator

import pytest

from tests.harness.guest import Guest, build_guest
from tests.harness.kafka import KafkaBroker
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.network import HostNetwork
from tests.harness.postgres import Database, PostgresServer
from tests.harness.smtp import SmtpReceiver
from tests.harness.snmp import SnmpReceiver
from tests.harness.workspace import Workspace


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    """The folder of this test run, with everything in it ended and removed afterwards."""
    workspace = Workspace()
    yield workspace
    workspace.close()


@pytest.fixture(scope="session")
def postgres_session(workspace: Workspace) -> Iterator[PostgresServer]:
    """The session's PostgreSQL, in whatever state the tests left it: tests take `postgres`."""
    server = PostgresServer(workspace)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def postgres(postgres_session: PostgresServer) -> Iterator[PostgresServer]:
    """A running PostgreSQL server, shared by the session, that the test may kill, pause and
    restart.
    """
    postgres_session.start()
    yield postgres_session
    if postgres_session.running:
        postgres_session.resume()


@pytest.fixture
def database(postgres: PostgresServer, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh, empty PostgreSQL database of the test's own."""
    database = postgres.create_database(request.node.name)
    yield database
    postgres.start()
    postgres.resume()
    postgres.drop_database(database)


@pytest.fixture(scope="session")
def guest() -> Guest:
    """The tiny guest: kernel, initrd and base disk."""
    return build_guest()


@pytest.fixture(scope="session")
def host_network(workspace: Workspace) -> Iterator[HostNetwork]:
    """The session's network between the test's process and its hosts."""
    network = HostNetwork(workspace)
    yield network
    network.close()


@pytest.fixture
def make_libvirt_host(
    workspace: Workspace, host_network: HostNetwork
) -> Iterator[Callable[[], LibvirtHost]]:
    """A maker of running libvirt hosts, numbered from 1; all are off after the test."""
    hosts: list[LibvirtHost] = []

    def make() -> LibvirtHost:
        host = LibvirtHost(workspace, host_network, len(hosts) + 1)
        hosts.append(host)
        host.start()
        return host

    yield make
    for host in hosts:
        host.stop()


@pytest.fixture
def libvirt_host(make_libvirt_host: Callable[[], LibvirtHost]) -> LibvirtHost:
    """A running libvirt host of the test's own."""
    return make_libvirt_host()


@pytest.fixture(scope="session")
def kafka_session(workspace: Workspace) -> Iterator[KafkaBroker]:
    """The session's Kafka broker, in whatever state the tests left it: tests take `kafka`."""
    broker = KafkaBroker(workspace)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def kafka(kafka_session: KafkaBroker) -> Iterator[KafkaBroker]:
    """A running Kafka broker, shared by the session, that the test may kill, pause and restart."""
    kafka_session.start()
    with warnings.catch_warnings():
        # kafka-python leaves a socket open that could not connect, as while the broker is down.
        warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
        yield kafka_session
        if kafka_session.running:
            kafka_session.resume()
        gc.collect()


@pytest.fixture
def smtp(workspace: Workspace) -> Iterator[SmtpReceiver]:
    """A running mail receiver that demands STARTTLS and AUTH."""
    receiver = SmtpReceiver(workspace)
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture
def snmp(workspace: Workspace) -> Iterator[SnmpReceiver]:
    """A running SNMP manager."""
    receiver = SnmpReceiver(workspace)
    receiver.start()
    yield receiver
    receiver.stop()
