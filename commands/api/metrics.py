"""Metrics of commands, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class CommandMetrics:
    """Counts commands and how long they took, by command and outcome.

    The outcome is `accepted`, `repeated` or the problem's type; the time does not include what
    `Prefer: wait` added.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry
        if self.registry is None:
            self.registry = CollectorRegistry()
            ProcessCollector(registry=self.registry)
        self._seconds = Histogram(
            "chronovisor_command_seconds",
            "How long commands took until they were answered",
            ["command", "outcome"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._children: dict[tuple[str, str], Histogram] = {}

    def observe(self, command: str, outcome: str, seconds: float) -> None:
        """Count one command."""
        child = self._children.get((command, outcome))
        if child is None:
            child = self._seconds.labels(command, outcome)
            self._children[command, outcome] = child
        child.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics of the registry in Prometheus' text format."""
        if self.registry is None:
            return b""
        return generate_latest(self.registry)
