"""The harness itself: each part does with the real component what other tests rely on."""

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import psycopg
import pytest
from kafka import KafkaConsumer, KafkaProducer
from pysnmp.hlapi.v3arch.asyncio import (
    CommunityData,
    ContextData,
    NotificationType,
    ObjectIdentity,
    OctetString,
    SnmpEngine,
    UdpTransportTarget,
    UsmUserData,
    send_notification,
    usmAesCfb128Protocol,
    usmHMACSHAAuthProtocol,
)

from tests.harness.kafka import KafkaBroker
from tests.harness.postgres import Database, PostgresServer, find_binaries
from tests.harness.processes import ProcessIdentity, eventually, wait_until
from tests.harness.smtp import SmtpReceiver
from tests.harness.snmp import SENDER_ENGINE_ID, SnmpReceiver
from tests.harness.workspace import OWNER_FILE, PREFIX, PROJECT_ROOT, Workspace

pytestmark = pytest.mark.integration


class TestPostgresServer:
    """A real PostgreSQL that can be killed, paused and restarted."""

    def test_a_database_is_fresh_and_durable_over_a_kill(
        self, postgres: PostgresServer, database: Database
    ) -> None:
        """What was committed is there after kill -9, on the same port; what was not is gone."""
        with psycopg.connect(database.url, autocommit=True) as connection:
            tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
            assert connection.execute(tables).fetchone() == (0,)
            connection.execute("CREATE TABLE kept (number int)")
            connection.execute("INSERT INTO kept VALUES (7)")
        with contextlib.closing(psycopg.connect(database.url)) as open_transaction:
            open_transaction.execute("INSERT INTO kept VALUES (8)")

            postgres.kill()
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(database.url, connect_timeout=2)
            postgres.start()

        with psycopg.connect(database.socket_url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]

    def test_a_paused_server_answers_nothing_and_then_goes_on(
        self, postgres: PostgresServer, database: Database
    ) -> None:
        """SIGSTOP stops the postmaster and the backends; open connections survive it."""
        with psycopg.connect(database.url, autocommit=True) as connection:
            with postgres.paused(), pytest.raises(psycopg.OperationalError):
                psycopg.connect(database.url, connect_timeout=2)
            assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_a_copied_database_has_the_tables_of_its_template(
        self, postgres: PostgresServer, database: Database
    ) -> None:
        """A migrated database can be copied for each test instead of migrating each."""
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE migrated (number int)")
        copy = postgres.create_database("copy", template=database.name)
        with psycopg.connect(copy.url) as connection:
            assert connection.execute("SELECT count(*) FROM migrated").fetchone() == (0,)
        postgres.drop_database(copy)

    def test_the_durability_settings_are_the_safe_ones(self, database: Database) -> None:
        """The product refuses a cluster without fsync, so the harness must not be fast that way."""
        with psycopg.connect(database.url) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)

    @pytest.mark.skipif(find_binaries("debian") is None, reason="Debian's PostgreSQL is not here")
    def test_debians_server_starts_too(self, workspace: Workspace) -> None:
        """The oldest supported server, beside the wheel's."""
        server = PostgresServer(workspace, "debian")
        server.start()
        database = server.create_database()
        with psycopg.connect(database.url) as connection:
            version = connection.info.server_version // 10_000
        server.stop()
        assert version == server.version[0]
        assert not server.running


class TestWorkspace:
    def test_what_a_killed_run_left_is_cleared_by_the_next(self, tmp_path: Path) -> None:
        # given a run with a server and a network link that is killed
        script = """if True:
            import os, signal, sys
            from pathlib import Path
            from tests.harness.network import HostNetwork
            from tests.harness.processes import start_process
            from tests.harness.workspace import Workspace
            workspace = Workspace()
            network = HostNetwork(workspace)
            server = start_process(["sleep", "600"], workspace.folder / "log")
            workspace.note_process(server.pid)
            print(server.pid, network.number, workspace.folder, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        answer = subprocess.run(
            [sys.executable, "-c", script],
            check=False,
            capture_output=True,
            text=True,
            cwd=PROJECT_ROOT,
            env=environment,
            timeout=60,
        )
        assert answer.returncode == -signal.SIGKILL, answer.stderr
        pid, number, folder = answer.stdout.split()
        server = ProcessIdentity.of(int(pid))
        assert server is not None, "the run's server must outlive it, or nothing is shown"
        assert Path(folder, OWNER_FILE).exists()
        assert Path(f"/sys/class/net/cvtm{number}").exists()

        # when another run begins
        subprocess.run(
            [sys.executable, "-c", "from tests.harness.workspace import *; clean_leftovers()"],
            check=True,
            cwd=PROJECT_ROOT,
            env=environment,
            timeout=60,
        )

        # then nothing is left
        assert not server.alive
        assert not Path(f"/sys/class/net/cvtm{number}").exists()
        assert not list(tmp_path.glob(f"{PREFIX}*/"))

    def test_a_live_run_is_left_alone(self, workspace: Workspace) -> None:
        another = Workspace()
        assert workspace.folder.is_dir()
        another.close()
        assert not another.folder.exists()

    def test_a_failed_wait_says_what_was_awaited_and_seen(self) -> None:
        with pytest.raises(TimeoutError, match=r"for the moon; last seen: 0\nmore"):
            wait_until(lambda: 0, 0.1, "the moon", detail=lambda: "more")
        with pytest.raises(TimeoutError, match="ZeroDivisionError"):
            wait_until(lambda: 1 // 0, 0.1, tolerate=(ZeroDivisionError,))

    async def test_an_asynchronous_wait_lets_the_loop_go_on(self) -> None:
        beats = []

        async def beat() -> bool:
            beats.append(1)
            return len(beats) > 3

        asyncio.get_running_loop().call_later(0.02, beats.extend, [1, 1, 1])
        assert await eventually(beat, 5.0, "three beats", interval_s=0.1)
        assert len(beats) < 7, "the loop's own call must have run between the probes"

        async def never() -> bool:
            return False

        with pytest.raises(TimeoutError, match="for the sun; last seen: False"):
            await eventually(never, 0.1, "the sun")


class TestKafkaBroker:
    def test_records_survive_a_kill_of_the_broker(self, kafka: KafkaBroker) -> None:
        # given records that the broker has acknowledged
        topic = "survivors"
        kafka.create_topic(topic)
        with contextlib.closing(producer_for(kafka)) as producer:
            for number in range(50):
                producer.send(topic, b"before %d" % number).get(10)

            # when it is killed and started again
            kafka.kill()
            kafka.start()

            # then the same producer goes on
            for number in range(50):
                producer.send(topic, b"after %d" % number).get(30)
        wanted = [b"before %d" % number for number in range(50)]
        wanted += [b"after %d" % number for number in range(50)]
        assert consume(kafka, topic, len(wanted)) == wanted

    def test_a_topic_can_be_emptied_and_deleted(self, kafka: KafkaBroker) -> None:
        topic = "emptied"
        kafka.create_topic(topic)
        with contextlib.closing(producer_for(kafka)) as producer:
            for number in range(3):
                producer.send(topic, b"%d" % number).get(10)
        assert kafka.record_count(topic) == 3
        kafka.empty_topic(topic)
        assert (kafka.record_count(topic), kafka.end_offsets(topic)) == (0, {0: 3})
        assert topic in kafka.topics()
        kafka.delete_topic(topic)
        kafka.delete_topic(topic)
        assert topic not in kafka.topics()

    def test_a_paused_broker_answers_after_it_goes_on(self, kafka: KafkaBroker) -> None:
        topic = "paused"
        kafka.create_topic(topic)
        with contextlib.closing(producer_for(kafka)) as producer:
            producer.send(topic, b"first").get(10)
            with kafka.paused():
                pending = producer.send(topic, b"second")
                with pytest.raises(Exception, match=r"(?i)timeout|timed out"):
                    pending.get(1)
            assert pending.get(30).offset == 1


def producer_for(kafka: KafkaBroker) -> KafkaProducer:
    return KafkaProducer(
        bootstrap_servers=kafka.bootstrap,
        acks="all",
        enable_idempotence=True,
        reconnect_backoff_max_ms=500,
    )


def consume(kafka: KafkaBroker, topic: str, count: int) -> list[bytes]:
    """The first records of the topic."""
    with contextlib.closing(
        KafkaConsumer(
            topic,
            bootstrap_servers=kafka.bootstrap,
            auto_offset_reset="earliest",
            consumer_timeout_ms=20_000,
        )
    ) as consumer:
        return [record.value for _, record in zip(range(count), consumer, strict=False)]


class TestSmtpReceiver:
    @staticmethod
    async def send(smtp: SmtpReceiver, subject: str, password: str | None = None) -> None:
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = "engine@example.org", "a@example.org", subject
        mail.set_content("Grüße aus dem Rechenzentrum")
        await aiosmtplib.send(
            mail,
            hostname=smtp.host,
            port=smtp.port,
            start_tls=True,
            tls_context=ssl.create_default_context(cafile=str(smtp.certificate)),
            username=smtp.username,
            password=password or smtp.password,
        )

    async def test_a_mail_arrives_encrypted_and_authenticated(self, smtp: SmtpReceiver) -> None:
        await self.send(smtp, "Ein Gruß")
        (mail,) = smtp.wait_for(1)
        assert (mail.encrypted, mail.user, mail.subject) == (True, "notifier", "Ein Gruß")
        assert (mail.sender, mail.recipients) == ("engine@example.org", ("a@example.org",))
        assert "Grüße" in mail.text

    async def test_wrong_password_plain_text_and_refusals_are_refused(
        self, smtp: SmtpReceiver
    ) -> None:
        with pytest.raises(aiosmtplib.SMTPAuthenticationError):
            await self.send(smtp, "wrong", password="wrong")
        with pytest.raises(aiosmtplib.SMTPResponseException, match="STARTTLS"):
            await aiosmtplib.send(
                b"Subject: bare\r\n\r\nbare",
                sender="a@example.org",
                recipients=["b@example.org"],
                hostname=smtp.host,
                port=smtp.port,
                start_tls=False,
            )
        smtp.refuse_next()
        with pytest.raises(aiosmtplib.SMTPDataError, match="try again"):
            await self.send(smtp, "later")
        assert (smtp.mails, smtp.attempts) == ([], 1)

    async def test_it_goes_down_and_up_on_one_port(self, smtp: SmtpReceiver) -> None:
        smtp.stop()
        with pytest.raises(aiosmtplib.SMTPConnectError):
            await self.send(smtp, "lost")
        smtp.start()
        await self.send(smtp, "found")
        assert [mail.subject for mail in smtp.wait_for(1)] == ["found"]


# pysnmp counts its engine's boots in a file that it does not close.
@pytest.mark.filterwarnings("ignore:unclosed file .*__pysnmp:ResourceWarning")
class TestSnmpReceiver:
    notification = "1.3.6.1.4.1.2312.13.1.0.1"
    text_oid = "1.3.6.1.4.1.2312.13.1.1.3"

    async def send(
        self, snmp: SnmpReceiver, account: CommunityData | UsmUserData, kind: str, text: str
    ) -> object:
        # An engine of its own: pysnmp sends what follows to every account that an engine ever had.
        engine = SnmpEngine(OctetString(hexValue=SENDER_ENGINE_ID))
        target = await UdpTransportTarget.create((snmp.host, snmp.port), timeout=1, retries=0)
        notification = NotificationType(ObjectIdentity(self.notification))
        notification.add_varbinds((self.text_oid, OctetString(text.encode())))
        error, *_ = await send_notification(
            engine, account, target, ContextData(), kind, notification
        )
        engine.close_dispatcher()
        return error

    async def test_a_v2c_trap_is_parsed(self, snmp: SnmpReceiver) -> None:
        text = 'VM "web01"\nis down: größer \\ schlimmer'
        assert await self.send(snmp, CommunityData(snmp.community), "trap", text) is None
        (trap,) = snmp.wait_for(1)
        assert (trap.source, trap.oid) == ("127.0.0.1", f".{self.notification}")
        assert "v2c" in trap.security
        assert trap.value(self.text_oid) == text
        kinds = [(variable.oid, variable.type) for variable in trap.variables]
        assert kinds == [
            (".1.3.6.1.2.1.1.3.0", "Timeticks"),
            (".1.3.6.1.6.3.1.1.4.1.0", "OID"),
            (f".{self.text_oid}", "STRING"),
        ]

    async def test_v3_traps_and_informs_of_the_known_user_are_taken(
        self, snmp: SnmpReceiver
    ) -> None:
        user = UsmUserData(
            snmp.v3_user,
            snmp.v3_auth_key,
            snmp.v3_privacy_key,
            authProtocol=usmHMACSHAAuthProtocol,
            privProtocol=usmAesCfb128Protocol,
        )
        assert await self.send(snmp, user, "trap", "one") is None
        assert await self.send(snmp, user, "inform", "two") is None
        assert await self.send(snmp, CommunityData("wrong"), "inform", "three") is not None
        texts = [trap.value(self.text_oid) for trap in snmp.wait_for(2)]
        assert texts == ["one", "two"]
        assert "v3" in snmp.traps[0].security

    async def test_it_goes_down_and_up_on_one_port(self, snmp: SnmpReceiver) -> None:
        account = CommunityData(snmp.community)
        snmp.stop()
        assert await self.send(snmp, account, "inform", "lost") is not None
        snmp.start()
        assert await self.send(snmp, account, "inform", "found") is None
        assert [trap.value(self.text_oid) for trap in snmp.wait_for(1)] == ["found"]
