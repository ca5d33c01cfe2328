"""What the agent process counts, for all its hosts together, in Prometheus' terms."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class Metrics:
    """Counters and gauges in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = self._counter("sessions", "Sessions opened with the engine.")
        self.sessions_lost = self._counter("sessions_lost", "Sessions that ended or never began.")
        self.failures = self._counter("request_failures", "Requests that the engine did not take.")
        self.reports = self._counter("reports", "Reports that the engine acknowledged.")
        self.samples = self._counter("samples", "Telemetry samples that the engine took.")
        self.samples_dropped = self._counter("samples_dropped", "Telemetry samples dropped.")
        self.comparisons = self._counter("comparisons", "Comparisons of intent with what runs.")
        self.starts = self._counter("starts", "Starts of VMs begun.")
        self.ends = self._counter("ends", "Runs of VMs ended or found ended.")
        self.jobs = self._counter("jobs", "Jobs begun or resumed.")
        self.hosts = self._gauge("hosts", "Hosts that this process is the agent of.")
        self.connected = self._gauge("hosts_connected", "Hosts with a session that works.")
        self.unknown = self._gauge("hosts_unknown", "Hosts whose hypervisor does not answer.")
        self.domains = self._gauge("domains", "Managed domains on all hosts.")

    def text(self) -> bytes:
        """Return all of them in the text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"chronovisor_agent_{name}", text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"chronovisor_agent_{name}", text, registry=self.registry)
