"""The engine as an agent sees it: the port behind which the HTTPS client lies."""

from __future__ import annotations

from typing import Protocol

from events.wire.agent import Hello, Orders, Report, ReportAck, Telemetry, Welcome


class GatewayError(Exception):
    """The engine did not take the message; the text is for people."""


class GatewayAwayError(GatewayError):
    """The engine cannot be reached or is overloaded: whether it took the message is not known.

    `on_its_way`: an engine may still be at work on the message, or find it later. It may not where
    the message never left, nor where the engine said what came of its work.
    """

    def __init__(
        self, message: str, retry_after_s: float = 0.0, *, on_its_way: bool = True
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.on_its_way = on_its_way


class SessionEndedError(GatewayError):
    """The session is not the host's newest: say hello again, and give `doubt` back."""

    def __init__(self, message: str, doubt: str = "") -> None:
        super().__init__(message)
        self.doubt = doubt


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
