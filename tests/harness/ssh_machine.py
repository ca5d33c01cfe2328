"""A machine that can be reached over SSH, and on which nothing of ours is installed.

It is a libvirt host in namespaces of its own; whatever is written to it, below /etc, /opt, /var/lib
and so on, stays in layers of its own. sshd is Debian's, with a root and two users.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

from tests.harness.distribution import pretend_to_be, start_firewalld
from tests.harness.libvirt_host import FILES, HostProcess, LibvirtHost
from tests.harness.package_repository import INSTALLED, make_repository
from tests.harness.processes import run_command, wait_until

PORT = 22
LAYERS = ("etc", "home", "opt", "root", "run", "usr/local", "var/lib")
ADMIN = "admin"
"""A user who may use sudo, with a password."""
KEYLESS = "keyless"
"""A user who may not."""
LOCK = "/run/chronovisor-install.lock"
"""The one file that stays, until the next boot."""


class SshMachine:
    """The machine. `password` is that of all users."""

    def __init__(self, host: LibvirtHost) -> None:
        self.host = host
        self.address = host.address
        self.password = secrets.token_urlsafe(12)
        self._server: HostProcess | None = None

    def prepare(self) -> None:
        """Lay the layers over the host's folders, and let sshd listen."""
        self.host.run([FILES / "bare.sh", self.host.folder, self.address, str(PORT), self.password])
        self.start_server()

    def start_server(self) -> None:
        """Start sshd, and wait until it listens."""
        self._server = self.host.launch(
            ["/usr/sbin/sshd", "-D", "-e", "-f", self.host.folder / "sshd_config"],
            self.host.folder / "sshd.log",
        )
        wait_until(
            lambda: "listening" in (self.host.folder / "sshd.log").read_text(),
            10,
            "sshd to listen",
        )

    def stop_server(self) -> None:
        """Stop sshd; sessions go on."""
        assert self._server is not None
        self._server.terminate()
        (self.host.folder / "sshd.log").unlink()

    def change_key(self) -> None:
        """Show another key, as another machine at the same address would."""
        self.stop_server()
        for path in self.host.folder.glob("ssh_*"):
            path.unlink()
        for kind in ("ed25519", "rsa"):
            path = self.host.folder / f"ssh_{kind}"
            run_command(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)])
        self.start_server()

    def fingerprint(self, kind: str = "ed25519") -> str:
        """Return what `ssh-keygen -lf` says of the machine's key."""
        shown = run_command(["ssh-keygen", "-lf", str(self.host.folder / f"ssh_{kind}.pub")])
        return shown.stdout.split()[1]

    def authorize(self, public_key: str, user: str = "root") -> None:
        """Let a key in, as an admin would by hand."""
        home = "/root" if user == "root" else f"/home/{user}"
        line = (
            f"umask 077; mkdir -p {home}/.ssh; echo '{public_key}' >> {home}/.ssh/authorized_keys"
        )
        self.host.run(["sh", "-c", f"{line}; chown -R {user}: {home}/.ssh"])

    def read(self, path: str) -> str:
        """Return what a file on the machine holds, "" where there is none."""
        return self.host.run(["sh", "-c", f"cat {path} 2>/dev/null || true"]).stdout

    def hold(self, name: str) -> None:
        """Have a program wait, when it is called the next time, until `let_go`."""
        waits = f"touch /run/{name}.held; while [ ! -e /run/{name}.free ]; do sleep 0.05; done"
        self.fake_program(name, f'{waits}\nexec /usr/bin/{name} "$@"')

    def await_held(self, name: str) -> None:
        """Wait until a program waits."""
        path = self.host.folder / "layers/run/upper" / f"{name}.held"
        wait_until(path.exists, 60, f"{name} to be called")

    def let_go(self, name: str) -> None:
        """Let a program go on that waits, and wait no more."""
        self.remove_fake(name)
        self.host.run(["touch", f"/run/{name}.free"])

    def fake_program(self, name: str, script: str) -> None:
        """Put a program where it is found before the machine's own."""
        place = f"/usr/local/sbin/{name}"
        self.host.run(
            ["sh", "-c", f"cat >{place} <<'END'\n#!/bin/sh\n{script}\nEND\nchmod 755 {place}"]
        )

    def remove_fake(self, name: str) -> None:
        """Take such a program away."""
        self.host.run(["/usr/bin/rm", "-f", f"/usr/local/sbin/{name}"])

    def become_bare(self, family: str) -> None:
        """Be a Debian, or look like an Enterprise Linux (`el`), with none of our packages.

        Its package manager is the real one, with a repository of empty packages.
        """
        repository = make_repository(self.host.folder / "repository", family)
        script, places = FILES / "real_packages.sh", ("usr", "var/cache", "var/log")
        self.host.run([script, self.host.folder, family, repository, *places])
        if family == "el":
            pretend_to_be(self.host.run, family)

    def packages(self, family: str) -> set[str]:
        """Return what the package manager of such a machine knows as installed."""
        return set(self.host.run(["sh", "-c", INSTALLED[family]]).stdout.split())

    def start_firewalld(self) -> None:
        """Start the real firewalld, with a bus of its own."""
        start_firewalld(self.host.run, self.host.launch, self.host.folder)

    def open_ports(self) -> tuple[str, str]:
        """Return the ports that firewalld lets in, now and after the next boot."""
        now = self.host.run(["firewall-cmd", "--list-ports"]).stdout
        later = self.host.run(["firewall-cmd", "--permanent", "--list-ports"]).stdout
        return now.strip(), later.strip()

    def become_systemd(self, *enabled: str) -> None:
        """Look as if systemd ran, with these units enabled: by a stand-in."""
        known = "libvirtd.service libvirtd.socket libvirtd-tls.socket libvirt-guests.service"
        place = "/etc/fake-systemd"
        self.host.run(["sh", "-c", f"mkdir -p /run/systemd/system {place}/known"])
        self.host.run(["sh", "-c", f"cd {place}/known && touch {known}"])
        self.host.run(["sh", "-c", f"cd {place} && touch {' '.join(enabled)}"])
        self.host.run(["cp", FILES / "systemctl.sh", "/usr/local/sbin/systemctl"])
        self.host.run(["chmod", "755", "/usr/local/sbin/systemctl"])

    def enabled(self) -> set[str]:
        """Return the units that are enabled, where systemd is stood in for."""
        return set(self.host.run(["ls", "/etc/fake-systemd"]).stdout.split()) - {"known"}

    def log(self) -> str:
        """Return what sshd logged since it was started."""
        return (self.host.folder / "sshd.log").read_text()

    def agent_pid(self) -> int:
        """Return the process id of the installed agent, 0 while none runs."""
        found = self.host.run(["pgrep", "-f", "hostagent run"], check=False).stdout.split()
        return int(found[0]) if found else 0

    def processes(self) -> str:
        """Return the command lines of what runs on the machine."""
        return self.host.run(["ps", "-eo", "args"]).stdout

    def traces(self) -> set[str]:
        """Return what installations left on the machine: files and folders of ours, SSH keys."""
        found: set[str] = set()
        for layer in LAYERS:
            root = self.host.folder / "layers" / layer / "upper"
            found |= {f"/{layer}/{path.relative_to(root)}" for path in _there(root)}
        ours = {path for path in found if "hronovisor" in path or "/.ssh" in path}
        return ours - {LOCK}

    @property
    def storage(self) -> Path:
        """The agent's storage folder, as it is seen from outside."""
        return self.host.folder / "layers/var/lib/upper/chronovisor-agent/storage"


def _there(root: Path) -> Iterator[Path]:
    """Yield what there is in a layer; what was deleted stands there as a character device."""
    for path in root.rglob("*"):
        if not path.is_char_device():
            yield path
