"""A real SMTP receiver for the tests: plain, SMTPS or STARTTLS, with or without AUTH; it may be
down or refuse.
"""

import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.harness.processes import free_port, wait_until
from tests.harness.workspace import Workspace

Security = Literal["none", "ssl", "starttls"]
HOST = "localhost"
CERTIFICATE_LIFE = timedelta(days=2)


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One mail as it was received."""

    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage
    encrypted: bool
    user: str | None
    received_at: float

    @property
    def subject(self) -> str:
        """The subject, decoded."""
        return str(self.message["Subject"])

    @property
    def text(self) -> str:
        """The body as plain text, decoded."""
        body = self.message.get_body(("plain",))
        return str(body.get_content()) if body is not None else ""


class SmtpReceiver:
    """Takes mails on a port of loopback that stays the same while it goes down and up.

    `username` with `password` makes AUTH compulsory; `certificate` is what a client must trust (for
    `localhost` and 127.0.0.1). The mails outlive `stop` and `start`.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        security: Security = "starttls",
        username: str | None = "notifier",
        password: str = "right and long",
    ) -> None:
        self.security = security
        self.username = username
        self.password = password
        self.host = HOST
        self.port = free_port()
        self.folder = workspace.make_folder("smtp", mode=0o700)
        self.certificate = self.folder / "certificate.pem"
        self._context = _make_certificate(self.certificate, self.folder / "key.pem")
        self._controller: Controller | None = None
        self._lock = threading.Lock()
        self._mails: list[Mail] = []
        self._refusals: list[str] = []
        self.attempts = 0

    @property
    def mails(self) -> list[Mail]:
        """All mails received so far, in their order."""
        with self._lock:
            return list(self._mails)

    @property
    def running(self) -> bool:
        """Whether the port takes connections."""
        return self._controller is not None

    def wait_for(self, count: int, timeout_s: float = 10.0) -> list[Mail]:
        """Wait until at least so many mails are there, and return all."""
        wait_until(
            lambda: len(self.mails) >= count,
            timeout_s,
            f"{count} mails",
            detail=lambda: f"received: {[mail.subject for mail in self.mails]}",
        )
        return self.mails

    def clear(self) -> None:
        """Forget the mails received so far."""
        with self._lock:
            self._mails.clear()

    def refuse_next(self, count: int = 1, answer: str = "451 4.3.0 try again later") -> None:
        """Refuse the next mails after their content by that answer (4xx: not now, 5xx: never)."""
        with self._lock:
            self._refusals.extend([answer] * count)

    def start(self) -> None:
        """Take connections."""
        if self._controller is not None:
            return
        starttls = self.security == "starttls"
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            ssl_context=self._context if self.security == "ssl" else None,
            tls_context=self._context if starttls else None,
            require_starttls=starttls,
            authenticator=self._authenticate,
            auth_required=self.username is not None,
            # SMTPS is encrypted already, which aiosmtpd does not count.
            auth_require_tls=starttls,
        )
        self._controller.start()

    def stop(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        right = (
            mechanism in {"LOGIN", "PLAIN"}
            and isinstance(data, LoginPassword)
            and data.login.decode() == self.username
            and data.password.decode() == self.password
        )
        return AuthResult(success=right, handled=False, auth_data=data if right else None)

    async def handle_DATA(  # noqa: N802 - aiosmtpd calls it by this name
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        """Take a mail, or refuse it."""
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        message = message_from_bytes(content, policy=policy.default)
        proof: object = session.auth_data
        user = proof.login.decode() if isinstance(proof, LoginPassword) else None
        with self._lock:
            self.attempts += 1
            if self._refusals:
                return self._refusals.pop(0)
            mail = Mail(
                sender=envelope.mail_from or "",
                recipients=tuple(envelope.rcpt_tos),
                message=message,
                encrypted=session.ssl is not None or self.security == "ssl",
                user=user,
                received_at=time.time(),
            )
            self._mails.append(mail)
        return "250 2.0.0 taken"


def _make_certificate(certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    """A certificate that vouches for itself, and the server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test mail receiver")])
    names = [x509.DNSName(HOST), x509.IPAddress(IPv4Address("127.0.0.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + CERTIFICATE_LIFE)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file, key_file)
    return context
