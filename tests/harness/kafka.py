"""A real Kafka broker for the tests: one node in KRaft mode, started from the jars in the cache.

The first use on a machine prepares two things in the cache, which make a start quick (2 s instead
of 12): an archive of the loaded classes, and a formatted data folder to copy.
"""

import base64
import hashlib
import secrets
import shutil
import signal
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, UnknownTopicOrPartitionError

from tests.harness.processes import (
    HarnessError,
    free_port,
    kill_tree,
    pause_tree,
    paused,
    resume_tree,
    run_command,
    send_signal,
    start_process,
    tail,
    wait_until,
)
from tests.harness.workspace import Workspace, cache_folder, exclusive

if TYPE_CHECKING:
    import subprocess

FILES = Path(__file__).parent / "kafka_files"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
TOPIC_TIMEOUT_S = 20.0
STARTED_LINE = "Kafka Server started"
# A short-lived server starts sooner without the second compiler, and needs little memory.
JAVA_OPTIONS = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class KafkaFiles:
    """What all brokers of this machine share: jars, class archive and a formatted data folder."""

    def __init__(self) -> None:
        home = cache_folder() / "kafka"
        self.jars = sorted((home / "libs").glob("*.jar"))
        if not self.jars:
            raise HarnessError("Kafka's jars are not here: run tests/install/kafka.sh")
        digest = hashlib.sha256("\n".join(str(jar) for jar in self.jars).encode())
        digest.update(run_command(["java", "-version"]).stderr.encode())
        digest.update((FILES / "server.properties").read_bytes())
        self.folder = home / f"prepared-{digest.hexdigest()[:12]}"
        self._lock = home / "prepare.lock"

    @property
    def archive(self) -> Path:
        """The class archive."""
        return self.folder / "kafka.jsa"

    @property
    def formatted(self) -> Path:
        """A formatted, empty data folder."""
        return self.folder / "formatted"

    def java(self, *options: str) -> list[str]:
        """The command's beginning up to the main class."""
        logging = f"-Dlog4j2.configurationFile={FILES / 'log4j2.xml'}"
        jars = ":".join(str(jar) for jar in self.jars)
        return ["java", *JAVA_OPTIONS, *options, logging, "-cp", jars]

    def prepare(self, workspace: Workspace) -> None:
        """Make what is missing, once on this machine, however many runs begin at the same time."""
        with exclusive(self._lock):
            if self.folder.is_dir():
                return
            draft = self.folder.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            broker = KafkaBroker(workspace, unprepared=self)
            self._format(broker.configuration)
            shutil.copytree(broker.data, draft / "formatted")
            try:
                broker.start(f"-XX:ArchiveClassesAtExit={draft / 'kafka.jsa'}")
                broker.create_topic("exercise")
                broker.stop()
            finally:
                broker.kill()
            if not (draft / "kafka.jsa").exists():
                message = f"Java wrote no class archive\n{tail(broker.log_file)}"
                raise HarnessError(message)
            draft.rename(self.folder)

    def _format(self, configuration: Path) -> None:
        identity = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", "--config", str(configuration)]
        # The tool takes an identity that begins with a dash for an option.
        run_command([*self.java(), *tool, f"--cluster-id={identity}"])


class KafkaBroker:
    """One broker, which can be stopped, killed, paused and started again on its port and data.

    `unprepared` is for the preparation alone: a broker whose data folder nobody has formatted yet.
    """

    def __init__(self, workspace: Workspace, *, unprepared: KafkaFiles | None = None) -> None:
        files = unprepared or KafkaFiles()
        if unprepared is None:
            files.prepare(workspace)
        self._workspace = workspace
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self.folder = workspace.make_folder("kafka", mode=0o700)
        self.data = self.folder / "data"
        self.data.mkdir()
        self.log_file = self.folder / "broker.log"
        self.configuration = self.folder / "server.properties"
        self.port = free_port()
        text = (FILES / "server.properties").read_text()
        values = {
            "BROKER_PORT": str(self.port),
            "CONTROLLER_PORT": str(free_port()),
            "=DATA": f"={self.data}",
        }
        for word, value in values.items():
            text = text.replace(word, value)
        self.configuration.write_text(text)
        if unprepared is None:
            shutil.copytree(files.formatted, self.data, dirs_exist_ok=True)

    @property
    def bootstrap(self) -> str:
        """The address for clients, HOST:PORT; the same over all restarts."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The broker's pid."""
        if self._process is None:
            raise HarnessError("Kafka is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the broker's process is there (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    def start(self, *java_options: str) -> None:
        """Start the broker, and return when it answers as a whole."""
        if self.running:
            return
        options = java_options or (f"-XX:SharedArchiveFile={self._files.archive}",)
        self._starts = self._started_lines() + 1
        command = [*self._files.java(*options), "kafka.Kafka", str(self.configuration)]
        self._process = start_process(command, self.log_file, folder=self.folder)
        self._workspace.note_process(self._process.pid)
        wait_until(
            self._answers,
            START_TIMEOUT_S,
            "Kafka to answer",
            tolerate=(KafkaError,),
            detail=lambda: tail(self.log_file),
        )

    def _started_lines(self) -> int:
        """How many times the log says that the broker has started."""
        if not self.log_file.exists():
            return 0
        return self.log_file.read_text(errors="replace").count(STARTED_LINE)

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            message = f"Kafka ended with {self._process.returncode}\n{tail(self.log_file)}"
            raise HarnessError(message)
        # A client that connects too early gives up and leaves a socket open: the log goes first.
        if self._started_lines() < self._starts:
            return False
        with closing(self._admin()) as admin:
            return len(admin.describe_cluster()["brokers"]) == 1

    def stop(self) -> None:
        """Stop in an orderly way."""
        if self._process is None:
            return
        resume_tree(self._process.pid)
        send_signal(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the broker with -9."""
        if self._process is not None:
            if self._process.poll() is None:
                kill_tree(self._process.pid)
                self._process.wait(STOP_TIMEOUT_S)
            self._process = None

    def restart(self) -> None:
        """Stop in an orderly way, and start on the same port and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Hold the broker still with SIGSTOP."""
        pause_tree(self.pid)

    def resume(self) -> None:
        """Let a paused broker go on."""
        resume_tree(self.pid)

    def paused(self) -> AbstractContextManager[None]:
        """Hold the broker still for the length of a `with` block."""
        return paused(self.pid)

    def _admin(self) -> Any:
        return KafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=10_000)

    def topics(self) -> set[str]:
        """The names of all topics but Kafka's own."""
        with closing(self._admin()) as admin:
            return {name for name in admin.list_topics() if not name.startswith("__")}

    def create_topic(
        self, name: str, partitions: int = 1, configuration: dict[str, str] | None = None
    ) -> None:
        """Create a topic, and return when it has a leader and takes records."""
        options = {
            "num_partitions": partitions,
            "replication_factor": 1,
            "configs": configuration or {},
        }
        with closing(self._admin()) as admin:
            admin.create_topics({name: options}, timeout_ms=10_000, wait_for_metadata=True)

    def delete_topic(self, name: str) -> None:
        """Delete a topic with its records, if there is one, and return when it is gone."""
        with closing(self._admin()) as admin:
            try:
                admin.delete_topics([name], timeout_ms=10_000)
            except UnknownTopicOrPartitionError:
                return
            wait_until(
                lambda: name not in admin.list_topics(), TOPIC_TIMEOUT_S, f"topic {name} to go"
            )

    def empty_topic(self, name: str) -> None:
        """Delete all records of a topic; its offsets go on from where they were."""
        ends = self.end_offsets(name)
        with closing(self._admin()) as admin:
            places = {TopicPartition(name, number): end for number, end in ends.items()}
            admin.delete_records(places, timeout_ms=10_000)

    def end_offsets(self, name: str) -> dict[int, int]:
        """For each partition of a topic the offset that its next record will have."""
        with closing(KafkaConsumer(bootstrap_servers=self.bootstrap)) as consumer:
            numbers = consumer.partitions_for_topic(name) or set()
            places = [TopicPartition(name, number) for number in sorted(numbers)]
            ends = consumer.end_offsets(places)
        return {place.partition: offset for place, offset in ends.items()}

    def record_count(self, name: str) -> int:
        """How many records a topic holds now."""
        with closing(KafkaConsumer(bootstrap_servers=self.bootstrap)) as consumer:
            numbers = consumer.partitions_for_topic(name) or set()
            places = [TopicPartition(name, number) for number in sorted(numbers)]
            begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
        return sum(int(ends[place] - begins[place]) for place in places)
