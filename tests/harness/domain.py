"""libvirt's XML for a guest that a test starts without Chronovisor (a stranger's domain, say)."""

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from tests.harness.guest import Guest

TEMPLATE = (Path(__file__).parent / "host_files" / "domain.xml").read_text()
STAMP_PREFIX = "chronovisor."


@dataclass(frozen=True, kw_only=True)
class DomainPlan:
    """A small guest: its name, its disk (a copy of the base disk), and what it stamps."""

    name: str
    guest: Guest
    disk: Path
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    memory_mib: int = 96
    bridge: str = "br0"
    ip4: str | None = None
    stamp: bool = False
    incarnation: int = 1
    first_host: str = "host1"

    def xml(self) -> str:
        """The domain's XML, for createXML."""
        words = self.guest.command_line(self.name, ip4=self.ip4, stamp=self.stamp)
        values = {
            "name": self.name,
            "uuid": self.uuid,
            "memory_mib": str(self.memory_mib),
            "kernel": str(self.guest.kernel),
            "initrd": str(self.guest.initrd),
            "command_line": words,
            "disk": str(self.disk),
            "bridge": self.bridge,
            "incarnation": f"{STAMP_PREFIX}incarnation={self.incarnation}",
            "first_host": f"{STAMP_PREFIX}first_host={self.first_host}",
        }
        quoted = {key: escape(value, {"'": "&apos;"}) for key, value in values.items()}
        return TEMPLATE.format(**quoted)
