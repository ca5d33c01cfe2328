"""A real virtualization host on the test machine: libvirtd and QEMU in namespaces of their own.

A host has its own network, mounts, processes, host name and IPC, its own /dev (without kvm, so
guests run under TCG) and its own boot id. It is a process tree under one tini: kill that, and the
host is off as by a pulled plug. libvirtd runs in a loop under it, listens on Unix sockets only, and
may be killed without harm to any QEMU. The file system is the outer one but for libvirt's own
folders: paths mean the same inside and outside.
"""

import contextlib
import itertools
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.network import HostNetwork
from tests.harness.processes import (
    HarnessError,
    ProcessIdentity,
    all_pids,
    children,
    command_line,
    kill_tree,
    namespace_of,
    pause_tree,
    resume_tree,
    run_command,
    send_signal,
    start_process,
    tail,
    wait_until,
)
from tests.harness.workspace import Workspace

FILES = Path(__file__).parent / "host_files"
NAMESPACES = ("--net", "--mount", "--uts", "--ipc", "--pid")
LIBVIRT_FOLDERS = (
    *("run/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt"),
    "etc/libvirt",
)
BOOT_TIMEOUT_S = 30.0
LIBVIRTD_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class QemuProcess:
    """One running virtual machine, as the process table shows it. The pid is the outer one."""

    pid: int
    name: str
    uuid: str


class HostProcess:
    """A program that runs inside a host's namespaces (an agent, say); its pid is the outer one."""

    def __init__(self, entry: subprocess.Popen[bytes], log_file: Path) -> None:
        self._entry = entry
        self.log_file = log_file
        self.pid = wait_until(
            self._inner_pid, 10.0, "the program to start inside the host", interval_s=0.01
        )

    def _inner_pid(self) -> int:
        """The program is the child of nsenter, which stays outside and waits for it."""
        found = children(self._entry.pid)
        if not found and self._entry.poll() is not None:
            message = f"the program ended with {self._entry.returncode}\n{tail(self.log_file)}"
            raise HarnessError(message)
        return found[0] if found else 0

    @property
    def running(self) -> bool:
        """Whether the program has not ended (it may be paused)."""
        return self._entry.poll() is None

    def wait(self, timeout_s: float = 10.0) -> int:
        """Wait for the program's end; its exit code, negative if a signal ended it."""
        return self._entry.wait(timeout_s)

    def terminate(self, timeout_s: float = 10.0) -> int:
        """Ask the program to end (SIGTERM), and wait until it has."""
        send_signal(self.pid, signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """Kill the program with -9; whatever it started lives on, as after a real kill."""
        if self.running:
            send_signal(self.pid, signal.SIGKILL)
            resume_tree(self._entry.pid)
            self.wait()

    def pause(self) -> None:
        """Hold the program still with SIGSTOP."""
        send_signal(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused program go on (nsenter stops itself when its child is stopped)."""
        send_signal(self.pid, signal.SIGCONT)
        send_signal(self._entry.pid, signal.SIGCONT)


class LibvirtHost:
    """One host. `number` is 1, 2, ... within its network; all methods block, each with a limit."""

    def __init__(self, workspace: Workspace, network: HostNetwork, number: int = 1) -> None:
        self._workspace = workspace
        self._network = network
        self.number = number
        self.name = f"host{number}"
        self.address = network.host_address(number)
        self.manager_address = network.address
        self.folder = workspace.make_folder(f"h{number}")
        self.images = self.folder / "images"
        self.boot_id = ""
        self.hardware_id = str(uuid.uuid4())
        self._log = self.folder / "host.log"
        self._unshare: subprocess.Popen[bytes] | None = None
        self._first: ProcessIdentity | None = None
        self._launched: list[HostProcess] = []
        self._lay_out()

    def _lay_out(self) -> None:
        self.images.mkdir()
        (self.folder / "dev").mkdir()
        for place in LIBVIRT_FOLDERS:
            (self.folder / "root" / place).mkdir(parents=True)
        settings = self.folder / "root/etc/libvirt"
        libvirtd = (FILES / "libvirtd.conf").read_text() + f'host_uuid = "{self.hardware_id}"\n'
        (settings / "libvirtd.conf").write_text(libvirtd)
        shutil.copy(FILES / "qemu.conf", settings)

    @property
    def socket(self) -> Path:
        """libvirtd's socket, as seen from outside and from inside alike."""
        return self.folder / "root/run/libvirt/libvirt-sock"

    @property
    def uri(self) -> str:
        """libvirt's URI of this host, from outside and from inside alike."""
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def libvirtd_log(self) -> Path:
        """What libvirtd logs."""
        return self.folder / "root/var/log/libvirt/libvirtd.log"

    @property
    def pid(self) -> int:
        """The outer pid of the host's first process."""
        if self._first is None:
            message = f"{self.name} is off"
            raise HarnessError(message)
        return self._first.pid

    @property
    def on(self) -> bool:
        """Whether the host has power."""
        return self._first is not None and self._first.alive

    def start(self) -> None:
        """Power on, and return when libvirtd answers."""
        self.power_on()

    def stop(self) -> None:
        """Power off; the folder stays until the workspace goes."""
        self.power_off()

    def power_on(self, boot_id: str | None = None) -> None:
        """Boot with a new boot id (or a given one, as a clone has) until libvirtd answers."""
        if self.on:
            return
        self.boot_id = boot_id or str(uuid.uuid4())
        (self.folder / "boot_id").write_text(self.boot_id + "\n")
        for stale in (self.folder / "root/run/libvirt").glob("*.pid"):
            stale.unlink()
        script = [str(FILES / "boot.sh"), str(self.folder), self.name, f"{self.address}/24"]
        command = ["unshare", *NAMESPACES, "--fork", "--kill-child", *script]
        self._unshare = start_process(command, self._log, with_input=True)
        self._workspace.note_process(self._unshare.pid)
        first = wait_until(self._booting_pid, BOOT_TIMEOUT_S, f"{self.name} to begin booting")
        self._network.plug_in(self.number, first)
        if self._unshare.stdin is None:
            raise HarnessError("the host's boot script has no input")
        self._unshare.stdin.write(b"plugged in\n")
        self._unshare.stdin.close()
        wait_until(
            lambda: command_line(first)[:1] == ["tini"],
            BOOT_TIMEOUT_S,
            f"{self.name} to boot",
            detail=lambda: tail(self._log),
        )
        self._first = ProcessIdentity.of(first)
        self.wait_for_libvirtd()

    def _booting_pid(self) -> int:
        """The first process of the new namespaces: `unshare` makes them before it forks."""
        if self._unshare is None or self._unshare.poll() is not None:
            message = f"{self.name} did not boot\n{tail(self._log)}"
            raise HarnessError(message)
        found = children(self._unshare.pid)
        return found[0] if found else 0

    def power_off(self) -> None:
        """Pull the plug: libvirtd, every QEMU and every program on the host die at once."""
        if self._first is not None:
            send_signal(self._first.pid, signal.SIGKILL)
            self._first = None
        if self._unshare is not None:
            try:
                self._unshare.wait(10.0)
            except subprocess.TimeoutExpired:
                kill_tree(self._unshare.pid)
                self._unshare.wait(10.0)
            self._unshare = None
        for program in self._launched:
            program.wait()
        self._launched.clear()
        self._network.unplug(self.number)

    def cut_off(self) -> None:
        """Cut the host off from the manager's network; it runs on."""
        self._network.set_reachable(self.number, reachable=False)

    def join_again(self) -> None:
        """End the cut."""
        self._network.set_reachable(self.number, reachable=True)

    def libvirtd_pid(self) -> int | None:
        """The outer pid of libvirtd; None while it is down."""
        for loop in children(self.pid):
            for candidate in children(loop):
                if Path("".join(command_line(candidate)[:1])).name == "libvirtd":
                    return candidate
        return None

    def kill_libvirtd(self) -> None:
        """Kill libvirtd with -9. It comes back by itself: `wait_for_libvirtd` waits for that."""
        pid = self.libvirtd_pid()
        if pid is None:
            message = f"libvirtd of {self.name} is down already"
            raise HarnessError(message)
        identity = ProcessIdentity.of(pid)
        send_signal(pid, signal.SIGKILL)
        wait_until(lambda: identity is None or not identity.alive, 10.0, "libvirtd to die")

    def wait_for_libvirtd(self) -> int:
        """Wait until libvirtd answers, and return its pid."""
        probe = ["virsh", "-q", "-c", self.uri, "version"]
        wait_until(
            lambda: self.libvirtd_pid() and run_command(probe, check=False).returncode == 0,
            LIBVIRTD_TIMEOUT_S,
            f"libvirtd of {self.name} to answer",
            detail=lambda: tail(self.libvirtd_log) + tail(self._log),
        )
        pid = self.libvirtd_pid()
        if pid is None:
            message = f"libvirtd of {self.name} answered and died\n{tail(self.libvirtd_log)}"
            raise HarnessError(message)
        return pid

    def pause_libvirtd(self) -> None:
        """Hold libvirtd still with SIGSTOP; the guests run on."""
        send_signal(self.libvirtd_pid() or 0, signal.SIGSTOP)

    def resume_libvirtd(self) -> None:
        """Let a paused libvirtd go on."""
        send_signal(self.libvirtd_pid() or 0, signal.SIGCONT)

    @contextlib.contextmanager
    def libvirtd_paused(self) -> Iterator[None]:
        """Hold libvirtd still for the length of a `with` block."""
        self.pause_libvirtd()
        try:
            yield
        finally:
            self.resume_libvirtd()

    def pause(self) -> None:
        """Hold every process of the host still: it hangs, its guests with it."""
        pause_tree(self.pid)

    def resume(self) -> None:
        """Let a paused host go on."""
        resume_tree(self.pid)

    def pids(self) -> list[int]:
        """The outer pids of all processes on the host."""
        namespace = namespace_of(self.pid, "pid")
        return [pid for pid in all_pids() if namespace_of(pid, "pid") == namespace]

    def qemu_processes(self) -> list[QemuProcess]:
        """Every virtual machine that runs on the host, whatever libvirt thinks about it."""
        found = []
        for pid in self.pids():
            words = command_line(pid)
            if not words or not Path(words[0]).name.startswith("qemu-system"):
                continue
            arguments = dict(itertools.pairwise(words))
            name = re.match(r"guest=([^,]+)", arguments.get("-name", ""))
            if name:  # the QEMUs that libvirt asks for their abilities have no name
                machine = QemuProcess(pid=pid, name=name[1], uuid=arguments.get("-uuid", ""))
                found.append(machine)
        return found

    def qemu_pids(self) -> dict[str, int]:
        """The virtual machines' outer pids by libvirt's name; an error if one name runs twice."""
        machines = self.qemu_processes()
        pids = {machine.name: machine.pid for machine in machines}
        if len(pids) != len(machines):
            message = f"a virtual machine runs twice on {self.name}: {machines}"
            raise HarnessError(message)
        return pids

    def kill_qemu(self, name: str) -> None:
        """Kill one virtual machine's QEMU with -9, as a crash of QEMU would end it."""
        identity = ProcessIdentity.of(self.qemu_pids()[name])
        if identity is not None:
            send_signal(identity.pid, signal.SIGKILL)
            wait_until(lambda: not identity.alive, 10.0, f"QEMU of {name} to die")

    def _entering(self, command: Sequence[str | Path], folder: Path | None) -> list[str]:
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        change = ["env", f"--chdir={folder or self.folder}"]
        return [*enter, *change, *(str(word) for word in command)]

    def run(
        self,
        command: Sequence[str | Path],
        *,
        folder: Path | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host to its end; `folder` is where (default: the host's own)."""
        return run_command(self._entering(command, folder), timeout_s=timeout_s, check=check)

    def launch(
        self,
        command: Sequence[str | Path],
        log_file: Path,
        *,
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> HostProcess:
        """Start a program on the host that stays (an agent); it dies with the host."""
        entering = self._entering(command, folder)
        entry = start_process(entering, log_file, environment=environment)
        self._workspace.note_process(entry.pid)
        program = HostProcess(entry, log_file)
        self._launched.append(program)
        return program
