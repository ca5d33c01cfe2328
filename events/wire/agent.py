"""What engine and host agents say to each other (contract C), as msgspec JSON over HTTPS.

The agent always asks. `POST /agent/v1/hello` opens a session and answers the whole intent;
`GET /agent/v1/orders` waits for changes of the intent; `POST /agent/v1/report` tells what is;
`POST /agent/v1/telemetry` sends samples; `POST /agent/v1/renew` asks for the certificate to use,
the only request that an expired certificate is good for. A session that is not the newest gets 409
and the agent says hello again. Times are the host's own and only shown, never ordered by. Sizes are
in bytes.
"""

from __future__ import annotations

import datetime as dt
import enum

import msgspec

from events.types.host import Capabilities
from events.types.host_memory import MemoryPolicy
from events.types.host_power import AgentAnswer, FenceOrder, PowerState
from events.types.job import Job
from events.types.migration import CopyProgress, Held
from events.types.run_spec import RunSpec
from events.types.vm import DownReason, PauseReason
from events.types.vm_memory import BalloonProblem

PROTOCOL = 1
"""The protocol that this release speaks; an engine also understands the one before."""

REPORT_ITEMS_MAX = 500
SAMPLES_MAX = 2_000


class Role(enum.StrEnum):
    """What a VM is to be on a host."""

    RUN = "run"
    INCOMING = "incoming"
    OUTGOING = "outgoing"
    ABSENT = "absent"


class Receiving(msgspec.Struct, frozen=True, kw_only=True):
    """From where a VM comes in: the migration's id, the source host's id, the ticket's SHA-256."""

    migration: str
    source: str
    ticket_sha256: str = ""


class IntentVm(msgspec.Struct, frozen=True, kw_only=True):
    """What one incarnation is to be on the host.

    `position` is that of the event which ordered it. `started` says that the engine knows it ran
    already: such a run is never started a second time, only reported absent if it is gone.
    `spec` is there for every role but absent. `reason` is what to report of a run that is ended
    because of role absent: admin for a power-off, withdrawn for a start that was taken back.
    `receiving` is there for role incoming, and for role run until the VM runs where it came to.
    `only_half`, with role absent: only if it stands still with a part of its memory, because the
    other part is lost; else it is as with role run.
    """

    vm: str
    incarnation: int
    role: Role
    position: int
    started: bool = False
    spec: RunSpec | None = None
    reason: DownReason | None = None
    receiving: Receiving | None = None
    only_half: bool = False


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What should be on the host as of `position`: all of it, or, in an answer to a poll for
    orders, the items that changed since the agent's position (whole items, never differences).

    `jobs_withdrawn` are ids of jobs, and of orders about power, that are no longer wanted.
    `fences` are orders about the power of other hosts; an agent that does not know them is given
    none, since it does not tell which fence agents it has. `memory` is there in the answer to
    hello, and where the cluster's settings changed.
    """

    position: int
    vms: tuple[IntentVm, ...] = ()
    jobs: tuple[Job, ...] = ()
    jobs_withdrawn: tuple[str, ...] = ()
    fences: tuple[FenceOrder, ...] = ()
    memory: MemoryPolicy | None = None


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The agent opens a session. `boot` is the host's boot id, `hardware` its machine identity.

    `doubt` is what the engine gave when it doubted the last hello, else empty: whoever gives it
    back speaks now, and is no message that was long under way. None: the agent knows nothing of it.
    """

    boot: str
    hardware: str
    protocols: tuple[int, ...]
    agent_version: str
    time: dt.datetime
    capabilities: Capabilities
    doubt: str | None = None


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's answer to hello; intervals that the agent is to keep, in seconds."""

    session: str
    protocol: int
    intent: Intent
    telemetry_interval_s: float = 15.0
    poll_s: float = 25.0
    compare_interval_s: float = 60.0


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a poll for orders: `changes.position` is where to poll from next."""

    changes: Intent


class VmState(enum.StrEnum):
    """What one incarnation is on the host; absent is a promise: it never starts here again."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    ABSENT = "absent"


class VmStateItem(msgspec.Struct, frozen=True, kw_only=True, tag="vm_state"):
    """What one incarnation is now. `guest_up` once the guest's agent answered or boot time passed.

    `reason` and `detail` are there for absent; `boots` counts the guest's resets seen so far.
    `held`: it came in, and broke off in post-copy, so that it stands still without all its memory;
    or, where no migration of it is ordered here, how the hypervisor holds it for one.
    """

    vm: str
    incarnation: int
    state: VmState
    guest_up: bool = False
    restored: bool = False
    pause_reason: PauseReason | None = None
    reason: DownReason | None = None
    detail: str = ""
    resets: int = 0
    hostname: str = ""
    addresses: tuple[str, ...] = ()
    operating_system: str = ""
    balloon: BalloonProblem = BalloonProblem.NONE
    held: Held | None = None


class JobState(enum.StrEnum):
    """How far a job is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class JobItem(msgspec.Struct, frozen=True, kw_only=True, tag="job"):
    """How far a job is; `percent` while running, `reason` if failed.

    Of a migration: `copying` while running; `held`, with its reason, where the hypervisor stopped
    the VM and does not know how to go on; `elsewhere` if another destination may be tried.
    """

    job: str
    vm: str
    state: JobState
    percent: int | None = None
    reason: str = ""
    copying: CopyProgress | None = None
    held: Held | None = None
    elsewhere: bool = False


class FullStateItem(msgspec.Struct, frozen=True, kw_only=True, tag="full_state"):
    """All managed incarnations on the host, and the names of domains that are not managed.

    `known` is False while libvirt cannot be asked: then the lists say nothing.
    """

    known: bool = True
    vms: tuple[VmStateItem, ...] = ()
    unmanaged: tuple[str, ...] = ()


class FenceItem(msgspec.Struct, frozen=True, kw_only=True, tag="fence"):
    """What came of an order about the power of another host: the state that all agents agree on.

    `reason` says why it is unknown.
    """

    order: str
    host: str
    state: PowerState
    answers: tuple[AgentAnswer, ...] = ()
    reason: str = ""


class CapabilitiesItem(msgspec.Struct, frozen=True, kw_only=True, tag="capabilities"):
    """The host's abilities changed."""

    capabilities: Capabilities


Item = VmStateItem | JobItem | FullStateItem | CapabilitiesItem | FenceItem


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent saw, in order; one report is in flight at a time.

    `sequence` rises by one within the session; the same number again is the same report.
    `applied_position` is the intent's position up to which the agent has taken up its orders.
    """

    session: str
    sequence: int
    applied_position: int
    time: dt.datetime
    items: tuple[Item, ...] = ()


class ReportAck(msgspec.Struct, frozen=True, kw_only=True):
    """The report is durable; `position` is that of its last event, or of the log's end."""

    sequence: int
    position: int


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of the host. CPU use in percent of all its CPUs; counters per second."""

    time: dt.datetime
    cpu_percent: float
    load: float
    memory_total_bytes: int
    memory_used_bytes: int
    storage_free_bytes: int
    vms_running: int
    network_receive_bytes_per_s: float = 0.0
    network_transmit_bytes_per_s: float = 0.0


class VmSample(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of a VM. CPU use in percent of its virtual CPUs; rates per second."""

    vm: str
    incarnation: int
    time: dt.datetime
    cpu_percent: float
    memory_bytes: int
    memory_used_bytes: int
    disk_read_bytes_per_s: float = 0.0
    disk_write_bytes_per_s: float = 0.0
    disk_read_operations_per_s: float = 0.0
    disk_write_operations_per_s: float = 0.0
    network_receive_bytes_per_s: float = 0.0
    network_transmit_bytes_per_s: float = 0.0


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of samples. (host, boot, sequence) is its key; `dropped` counts samples lost."""

    host: str
    boot: str
    sequence: int
    dropped: int = 0
    hosts: tuple[HostSample, ...] = ()
    vms: tuple[VmSample, ...] = ()


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/join`: the token of an announced host and a signing request for its own key."""

    token: str
    signing_request: str
    hardware: str


class Renew(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /agent/v1/renew`: a signing request for the key of the certificate that is shown."""

    signing_request: str


class RenewAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate that the host is to use (the one it has, if that is good for long enough),
    and the CA certificates that it is to trust.
    """

    certificate: str
    trust: str


class JoinAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`certificate` once the host is approved; until then `pending`, and the agent asks again."""

    host: str
    name: str
    pending: bool
    certificate: str | None = None
    trust: str = ""
    gateway: str = ""
