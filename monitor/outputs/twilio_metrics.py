"""What asking Twilio's REST API comes to, as metrics."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from monitor.outputs.metrics import PREFIX

BUCKETS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 20.0)


class TwilioMetrics:
    """Requests by API and answer. Both are few: the APIs that we ask, the statuses of HTTP, two ways to get none."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            PREFIX + "twilio_requests",
            "Requests to Twilio, by API and status; repetitions count.",
            ("api", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            PREFIX + "twilio_request_duration_seconds",
            "How long Twilio took to answer a request, or we to give up.",
            ("api",),
            buckets=BUCKETS_S,
            registry=registry,
        )

    def asked(self, api: str, code: str, seconds: float) -> None:
        """One request has come to an end."""
        self._requests.labels(api, code).inc()
        self._seconds.labels(api).observe(seconds)
