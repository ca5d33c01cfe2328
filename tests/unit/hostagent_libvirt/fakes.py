"""A libvirt in memory, and a process table to go with it: for what no real host can be made to do
at the right moment."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hostagent.convergence import Copying, Terms
from hostagent.driver import DriverError
from hostagent.libvirt_events import Lifecycle, RawEvent, RawKind, Stopped
from hostagent.libvirt_port import HostFigures, Listed, LostConnectionError
from hostagent.libvirt_processes import ProcessTable, Qemu
from hostagent.libvirt_xml import Ownership, parse, saved_ownership

CAPABILITIES = """<capabilities><host><cpu><arch>x86_64</arch></cpu></host><guest>
<arch name='x86_64'><machine>pc-q35-7.2</machine><domain type='qemu'/></arch></guest>
</capabilities>"""
DOMAIN_CAPABILITIES = "<domainCapabilities><path>/usr/bin/qemu</path></domainCapabilities>"


class FakeProcesses(ProcessTable):
    """The processes that the test says there are."""

    def __init__(self) -> None:
        super().__init__()
        self.table: list[Qemu] = []
        self.killed: list[Qemu] = []

    def qemus(self) -> list[Qemu]:
        return list(self.table)

    def kill(self, qemu: Qemu) -> None:
        self.killed.append(qemu)
        self.table.remove(qemu)


class FakeLibvirt:
    """Domains in a dictionary. `before` is called with the name of each call, in its thread, and
    may raise or wait."""

    def __init__(self, processes: FakeProcesses) -> None:
        self.processes = processes
        self.domains: dict[str, Listed] = {}
        self.saved: dict[str, str] = {}
        self.balloons: list[tuple[str, int]] = []
        self.calls: list[str] = []
        self.connections = 0
        self.capabilities = CAPABILITIES
        self.domain_capabilities_xml = DOMAIN_CAPABILITIES
        self.terms = Terms(down_time_ms=0)
        self.before: Callable[[str], None] = lambda _: None
        self._on_event: Callable[[RawEvent], None] = lambda _: None
        self._on_over: Callable[[], None] = lambda: None

    # --- the test's side

    def put(
        self,
        uuid: str,
        incarnation: int | None,
        paused: int | None = None,
        *,
        running: int | None = None,
    ) -> None:
        """A domain with its process; a stranger's without an incarnation."""
        own = None if incarnation is None else Ownership(vm=uuid, incarnation=incarnation)
        self.domains[uuid] = Listed(
            uuid=uuid, name=f"name of {uuid}", own=own, paused=paused, running=running
        )
        self.processes.table.append(
            Qemu(
                pid=100 + len(self.processes.table), uuid=uuid, booted_incarnation=incarnation or 0
            )
        )

    def end(self, uuid: str, detail: int = Stopped.FAILED, *, keep_process: bool = False) -> None:
        """A domain ends by itself."""
        self.domains.pop(uuid, None)
        if not keep_process:
            self.processes.table = [each for each in self.processes.table if each.uuid != uuid]
        self.say(uuid, Lifecycle.STOPPED, detail)

    def say(self, uuid: str, event: int, detail: int = 0) -> None:
        """Call back, as libvirt does, from another thread."""
        raw = RawEvent(kind=RawKind.LIFECYCLE, uuid=uuid, event=event, detail=detail)
        thread = threading.Thread(target=self._on_event, args=(raw,))
        thread.start()
        thread.join()

    def break_off(self) -> None:
        """The connection ends."""
        self._on_over()

    # --- the port

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self.before(name)

    def connect(self, on_event: Callable[[RawEvent], None], on_over: Callable[[], None]) -> object:
        self._called("connect")
        self.connections += 1
        self._on_event, self._on_over = on_event, on_over
        return self

    def connect_for_calls(self) -> object:
        self._called("connect_for_calls")
        return "a connection for calls"

    def disconnect(self, connection: object) -> None:
        self._called("disconnect" if connection is self else "disconnect_for_calls")

    def active(self, connection: object) -> Sequence[Listed]:
        self._called("active")
        return list(self.domains.values())

    def find(self, connection: object, uuid: str) -> Listed | None:
        self._called("find")
        return self.domains.get(uuid)

    def create(self, connection: object, xml: str) -> None:
        self._called("create")
        self._begin(xml)

    def _begin(self, xml: str) -> None:
        owner = saved_ownership(xml)
        assert owner is not None
        self.put(owner.vm, owner.incarnation)
        self.say(owner.vm, Lifecycle.STARTED)

    def restore(self, connection: object, file: str, xml: str) -> None:
        self._called("restore")
        self._begin(xml)

    def save(self, connection: object, uuid: str, file: str) -> None:
        self._called("save")
        with open(file, "wb") as target:  # noqa: PTH123 - as libvirt does
            target.write(b"LibvirtQemudSave" + bytes(100))
        self.saved[file] = (
            f"<domain><uuid>{uuid}</uuid><metadata><o:domain xmlns:o='urn:chronovisor:domain:1'>"
            f"<o:vm>{uuid}</o:vm><o:incarnation>1</o:incarnation></o:domain></metadata></domain>"
        )
        self.end(uuid, Stopped.SAVED)

    def saved_xml(self, connection: object, file: str) -> str:
        self._called("saved_xml")
        if file not in self.saved:
            raise DriverError("no such file")
        return self.saved[file]

    def define_saved_xml(self, connection: object, file: str, xml: str) -> None:
        self._called("define_saved_xml")
        parse(xml)
        self.saved[file] = xml

    def destroy(self, connection: object, uuid: str) -> None:
        self._called("destroy")
        if uuid in self.domains:
            self.end(uuid, Stopped.DESTROYED)

    def press_power_button(self, connection: object, uuid: str) -> None:
        self._called("press_power_button")

    def reset(self, connection: object, uuid: str) -> None:
        self._called("reset")

    def resume(self, connection: object, uuid: str) -> None:
        self._called("resume")

    def migrate(
        self, connection: object, uuid: str, libvirtd: str, stream: str, terms: Terms
    ) -> None:
        self.terms = terms
        self._called("migrate")
        self.end(uuid, Stopped.MIGRATED)

    def recover(
        self, connection: object, uuid: str, libvirtd: str, stream: str, terms: Terms
    ) -> None:
        self._called("recover")
        self.end(uuid, Stopped.MIGRATED)

    def copying(self, connection: object, uuid: str) -> Copying | None:
        self._called("copying")
        return None

    def live_xml(self, connection: object, uuid: str, *, secrets: bool = False) -> str:
        self._called("live_xml")
        secret = "<secret/>" if secrets else ""
        return f"<domain><uuid>{uuid}</uuid>{secret}</domain>"

    def allow_down_time(self, connection: object, uuid: str, down_time_ms: int) -> None:
        self._called("allow_down_time")

    def start_post_copy(self, connection: object, uuid: str) -> None:
        self._called("start_post_copy")

    def suspend(self, connection: object, uuid: str) -> None:
        self._called("suspend")

    def abort_job(self, connection: object, uuid: str) -> None:
        self._called("abort_job")

    def has_no_space(self, connection: object, uuid: str) -> bool:
        self._called("has_no_space")
        return True

    def ask_agent(self, connection: object, uuid: str, command: str, timeout_s: int) -> str:
        self._called("ask_agent")
        return '{"return": []}'

    def statistics(self, connection: object) -> Sequence[tuple[str, Mapping[str, Any]]]:
        self._called("statistics")
        return [(uuid, {"cpu.time": 1}) for uuid in self.domains]

    def set_balloon(self, connection: object, uuid: str, size_kib: int) -> None:
        self._called("set_balloon")
        self.balloons.append((uuid, size_kib))

    def figures(self, connection: object) -> HostFigures:
        self._called("figures")
        return HostFigures(
            host_name="host01",
            cpus=2,
            qemu_version=7_002_000,
            libvirt_version=9_000_000,
            capabilities_xml=self.capabilities,
        )

    def domain_capabilities(
        self, connection: object, architecture: str, virtualization: str
    ) -> str:
        self._called("domain_capabilities")
        return self.domain_capabilities_xml


def raising(name: str, error: Exception) -> Callable[[str], None]:
    """Let one call fail."""

    def before(called: str) -> None:
        if called == name:
            raise error

    return before


def waiting(name: str, going_on: threading.Event) -> Callable[[str], None]:
    """Let one call hang."""

    def before(called: str) -> None:
        if called == name:
            going_on.wait(20)

    return before


LOST = LostConnectionError("the connection broke")
