"""The engine as an agent sees it: the port behind which the HTTPS client lies."""

from __future__ import annotations

from typing import Protocol

from events.wire.agent import Hello, Orders, Report, ReportAck, Telemetry, Welcome


class GatewayError(Exception):
    """The engine did not take the message; the text is for people."""


class GatewayAwayError(GatewayError):
    """The engine cannot be reached or is overloaded: whether it took the message is not known."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SessionEndedError(GatewayError):
    """The session is not the host's newest: say hello again."""


class GatewayRefusedError(GatewayError):
    """The engine refuses this message, and would refuse it again."""


class Gateway(Protocol):
    """What an agent asks of the engine; every call has a limit in time and raises GatewayError."""

    async def hello(self, hello: Hello) -> Welcome:
        """Open a session, which ends every older one of the host."""
        ...

    async def orders(self, session: str, after: int, wait_s: float) -> Orders:
        """Wait for changes of the intent beyond position `after`, at most `wait_s`."""
        ...

    async def report(self, report: Report) -> ReportAck:
        """Tell what is; durable once this returns."""
        ...

    async def telemetry(self, telemetry: Telemetry) -> None:
        """Send samples."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...
