"""A real SNMP manager for the tests: net-snmp's snmptrapd, with what it received parsed from its
log.

It takes v1/v2c notifications of one community and v3 notifications of one user (SHA, AES). A v3
*trap* is sent under the sender's own engine id, which the receiver must know beforehand: the sender
under test uses `SENDER_ENGINE_ID` (or another one, given to the receiver). An inform goes under the
receiver's id, which is found out by asking.
"""

import re
import secrets
import subprocess
from dataclasses import dataclass

from tests.harness.processes import (
    HarnessError,
    free_port,
    kill_tree,
    pause_tree,
    resume_tree,
    start_process,
    tail,
    wait_until,
)
from tests.harness.workspace import Workspace

SENDER_ENGINE_ID = "80001f8805636872766e"
TRAP_OID = ".1.3.6.1.6.3.1.1.4.1.0"
START_TIMEOUT_S = 15.0
BEGIN, FIELD, END = "<<<trap>>>", "<<<field>>>", "<<<end>>>"
# net-snmp's names for what it prints as `TYPE: value`.
VALUE = re.compile(
    r"(?P<oid>\.[\d.]+) = (?:(?P<type>[A-Za-z][\w -]*?): ?)?(?P<value>.*)", re.DOTALL
)
TICKS = re.compile(r"\((\d+)\)")
SOURCE = re.compile(r"\[(?P<address>[^\]]+)\]:\d+")


@dataclass(frozen=True, kw_only=True)
class VarBind:
    """One variable of a trap: numeric OID with a leading dot, net-snmp's type name, the value as
    text.
    """

    oid: str
    type: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Trap:
    """One trap or inform: who sent it, by what kind of message, and what is in it."""

    source: str
    security: str
    variables: tuple[VarBind, ...]

    @property
    def oid(self) -> str:
        """The notification's own OID (snmpTrapOID)."""
        return self.value(TRAP_OID)

    def value(self, oid: str) -> str:
        """The value of a variable; KeyError if it is not in the trap."""
        dotted = oid if oid.startswith(".") else f".{oid}"
        for variable in self.variables:
            if variable.oid == dotted:
                return variable.value
        raise KeyError(dotted)


class SnmpReceiver:
    """snmptrapd on a UDP port of loopback that stays the same while it goes down and up."""

    def __init__(self, workspace: Workspace, sender_engine_id: str = SENDER_ENGINE_ID) -> None:
        self._workspace = workspace
        self.host = "127.0.0.1"
        self.port = free_port()
        self.community = "public-of-the-test"
        self.v3_user = "notifier"
        self.v3_auth_key = secrets.token_hex(12)
        self.v3_privacy_key = secrets.token_hex(12)
        self.sender_engine_id = sender_engine_id
        self.folder = workspace.make_folder("snmp", mode=0o700)
        self.log_file = self.folder / "snmptrapd.log"
        self._configuration = self.folder / "snmptrapd.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._write_configuration()

    def _write_configuration(self) -> None:
        secret = f'{self.v3_user} SHA "{self.v3_auth_key}" AES "{self.v3_privacy_key}"'
        (self.folder / "state").mkdir()
        self._configuration.touch(mode=0o600)
        self._configuration.write_text(
            f"authCommunity log {self.community}\n"
            f"createUser -e 0x{self.sender_engine_id} {secret}\n"
            f"createUser {secret}\n"
            f"authUser log {self.v3_user} priv\n"
            "doNotRetainNotificationLogs yes\n"
        )

    @property
    def running(self) -> bool:
        """Whether snmptrapd is there (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Receive; what was received before stays known."""
        if self.running:
            return
        self._starts += 1
        layout = f"{BEGIN}%b{FIELD}%P{FIELD}%V{FIELD}%v{END}\\n"
        command = ["snmptrapd", "-f", "-n", "-On", "-C", "-c", str(self._configuration), "-Lo"]
        self._process = start_process(
            [*command, "-F", layout, f"udp:{self.host}:{self.port}"],
            self.log_file,
            folder=self.folder,
            environment={"MIBS": "", "SNMP_PERSISTENT_DIR": str(self.folder / "state")},
        )
        self._workspace.note_process(self._process.pid)
        wait_until(self._listens, START_TIMEOUT_S, "snmptrapd", detail=lambda: tail(self.log_file))

    def _listens(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            message = f"snmptrapd ended with {self._process.returncode}\n{tail(self.log_file)}"
            raise HarnessError(message)
        return self.log_file.read_text(errors="replace").count("NET-SNMP version") >= self._starts

    def stop(self) -> None:
        """Be down: what is sent now is lost, unless the sender repeats it."""
        if self._process is not None:
            if self._process.poll() is None:
                kill_tree(self._process.pid)
            self._process.wait(10.0)
            self._process = None

    def pause(self) -> None:
        """Hold snmptrapd still with SIGSTOP."""
        if self._process is not None:
            pause_tree(self._process.pid)

    def resume(self) -> None:
        """Let a paused snmptrapd go on."""
        if self._process is not None:
            resume_tree(self._process.pid)

    @property
    def traps(self) -> list[Trap]:
        """All notifications received so far, in their order."""
        if not self.log_file.exists():
            return []
        log = self.log_file.read_text(errors="replace")
        pattern = re.escape(BEGIN) + "(.*?)" + re.escape(END)
        return [_parse(found) for found in re.findall(pattern, log, re.DOTALL)]

    def wait_for(self, count: int, timeout_s: float = 10.0) -> list[Trap]:
        """Wait until at least so many notifications are there, and return all."""
        wait_until(
            lambda: len(self.traps) >= count,
            timeout_s,
            f"{count} traps",
            detail=lambda: tail(self.log_file),
        )
        return self.traps


def _parse(text: str) -> Trap:
    connection, security, *variables = text.split(FIELD)
    source = SOURCE.search(connection)
    return Trap(
        source=source["address"] if source else connection,
        security=security,
        variables=tuple(_variable(variable) for variable in variables if variable),
    )


def _variable(text: str) -> VarBind:
    found = VALUE.fullmatch(text)
    if found is None:
        message = f"a variable that the harness cannot read: {text!r}"
        raise HarnessError(message)
    kind, value = found["type"] or "STRING", found["value"]
    ticks = TICKS.match(value)
    if kind == "Timeticks" and ticks:
        value = ticks[1]
    elif kind == "STRING":
        value = re.sub(r"\\(.)", r"\1", value.removeprefix('"').removesuffix('"'))
    elif kind == "Hex-STRING":
        # net-snmp shows whatever is not ASCII this way, UTF-8 text too.
        octets = bytes.fromhex(value)
        try:
            kind, value = "STRING", octets.decode()
        except UnicodeDecodeError:
            value = octets.hex()
    return VarBind(oid=found["oid"], type=kind, value=value)
