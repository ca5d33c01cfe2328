"""Mail: one message for one notification and one address, by SMTP."""

from __future__ import annotations

import email.policy
import email.utils
import hashlib
import re
import socket
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import msgspec

from events.types.base import Severity
from notifier.channel import DeliveryError, RefusedError
from notifier.notification import Kind, Notification

TRANSPORT = "smtp"
DEFAULT_PORTS = {"none": 25, "ssl": 465, "starttls": 587}
TIMEOUT_S = 30.0
SUBJECT_CHARACTERS_MAX = 200
PERMANENT = 500
_WORDS = {
    Severity.NORMAL: "Notice",
    Severity.WARNING: "Warning",
    Severity.ERROR: "Error",
    Severity.ALERT: "Alert",
}


class MailSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where mail goes to be sent. `encryption` is none, ssl or starttls; port None: its usual one.

    The password lies in a file, read for each message, so that it may change. `ca_file` is trusted
    instead of the system's authorities; the server's certificate is always checked.
    """

    server: str
    port: int | None = None
    encryption: str = "starttls"
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    sender: str = "chronovisor@localhost"
    reply_to: str | None = None
    timeout_s: float = TIMEOUT_S


class MailChannel:
    """Sends notifications by mail. Raises ValueError for settings that cannot work."""

    def __init__(self, settings: MailSettings) -> None:
        if settings.encryption not in DEFAULT_PORTS:
            raise ValueError(f"encryption is none, ssl or starttls, not {settings.encryption!r}")
        if settings.password_file is not None and settings.user is None:
            raise ValueError("a mail password without a user")
        for address in (settings.sender, settings.reply_to):
            if address is not None and not _is_address(address):
                raise ValueError(f"{address!r} is no mail address")
        self._settings = settings
        self._password()
        self._context = None
        if settings.encryption != "none":
            self._context = ssl.create_default_context(
                cafile=None if settings.ca_file is None else str(settings.ca_file)
            )

    @property
    def transport(self) -> str:
        """The transport's name in filters."""
        return TRANSPORT

    def addresses(self, name: str) -> tuple[str, ...]:
        """Return the mail address itself; ValueError if it is none."""
        if not _is_address(name):
            raise ValueError(f"{name!r} is no mail address")
        return (name,)

    def _password(self) -> str | None:
        file = self._settings.password_file
        if file is None:
            return None
        try:
            return file.read_text().rstrip("\r\n")
        except OSError as error:
            raise ValueError(f"the mail password's file {file}: {error.strerror}") from error

    @property
    def at_once_max(self) -> int:
        """One: what fails is then known to be that one."""
        return 1

    async def deliver(self, address: str, notifications: Sequence[Notification]) -> None:
        """Send one mail; returns once the server has taken it over."""
        (notification,) = notifications
        settings = self._settings
        message = compose(notification, address, settings.sender, settings.reply_to)
        try:
            await aiosmtplib.send(
                message.as_bytes(),
                sender=email.utils.parseaddr(settings.sender)[1],
                recipients=[email.utils.parseaddr(address)[1]],
                hostname=settings.server,
                port=settings.port or DEFAULT_PORTS[settings.encryption],
                username=settings.user,
                password=self._password(),
                use_tls=settings.encryption == "ssl",
                start_tls=settings.encryption == "starttls",
                tls_context=self._context,
                local_hostname=socket.gethostname(),
                timeout=settings.timeout_s,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [each.code for each in error.recipients]
            reason = "; ".join(f"{each.code} {each.message}" for each in error.recipients)
            if all(code >= PERMANENT for code in codes):
                raise RefusedError(reason) from error
            raise DeliveryError(reason) from error
        except aiosmtplib.SMTPDataError as error:
            kind = RefusedError if error.code >= PERMANENT else DeliveryError
            raise kind(f"{error.code} {error.message}") from error
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise DeliveryError(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Each mail has its own connection: nothing is held open."""


def _is_address(text: str) -> bool:
    _, address = email.utils.parseaddr(text)
    return re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", address) is not None


def message_id(notification: Notification, address: str) -> str:
    """Return the Message-ID, the same each time one notification is sent to one address.

    So a receiver that gets a mail twice (the notifier was killed between the server's answer and
    noting it) can drop the double.
    """
    who = hashlib.sha256(address.casefold().encode()).hexdigest()[:12]
    return f"<{notification.position}.{notification.log_id.hex[:16]}.{who}@chronovisor>"


def subject(notification: Notification) -> str:
    """Return the subject: what kind of news, and the news itself."""
    resolved = notification.kind is Kind.RESOLVE
    word = "Solved" if resolved else _WORDS[notification.severity]
    text = f"[Chronovisor] {word}: {' '.join(notification.message.split())}"
    if len(text) > SUBJECT_CHARACTERS_MAX:
        return text[: SUBJECT_CHARACTERS_MAX - 3] + "..."
    return text


def body(notification: Notification) -> str:
    """Return the text: the fields of oVirt's mails, under its labels, and where to look further."""
    lines = [
        ("Time", notification.time.strftime("%Y-%m-%d %H:%M:%S UTC")),
        ("Message", notification.message),
        ("Severity", notification.severity.name),
        ("User Name", notification.actor),
        ("VM Name", notification.vm_name),
        ("Host Name", notification.host_name),
        ("Cluster Name", notification.cluster_name),
        ("Data Center Name", notification.data_center_name),
        ("Event", f"{notification.name} ({notification.code})"),
        ("Solves", notification.resolves),
        ("Object", notification.stream),
        ("Operation", notification.correlation),
        ("Position", str(notification.position)),
    ]
    return "".join(f"{label}: {value}\n" for label, value in lines if value)


def compose(
    notification: Notification, address: str, sender: str, reply_to: str | None
) -> EmailMessage:
    """Return the mail of a notification for an address."""
    line = subject(notification)
    # Python folds a long line of plain words right behind the header's name, which some receivers
    # show as a blank. Encoded words must be folded at 78 characters, plain ones need not be.
    policy = email.policy.SMTP
    message = EmailMessage(policy.clone(max_line_length=500) if line.isascii() else policy)
    message["From"] = sender
    message["To"] = address
    if reply_to is not None:
        message["Reply-To"] = reply_to
    message["Subject"] = line
    message["Date"] = notification.time
    message["Message-ID"] = message_id(notification, address)
    message["Auto-Submitted"] = "auto-generated"
    message["X-Chronovisor-Event"] = f"{notification.name} {notification.code}"
    message["X-Chronovisor-Position"] = str(notification.position)
    message.set_content(body(notification))
    return message
