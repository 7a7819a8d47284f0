"""What durable streams count, in Prometheus's default registry."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

EVENTS_SENT: Final = Counter(
    "eventstream_events_sent", "Events handed to readers of a stream", ["stream", "phase"]
)
WATCHERS: Final = Gauge("eventstream_watchers", "Readers of a stream now", ["stream"])
EVENTS_APPLIED: Final = Counter(
    "eventstream_events_applied", "Events of a source that were applied", ["source", "phase"]
)
LAG: Final = Gauge(
    "eventstream_lag_seconds", "How long ago a source's reader was known to be complete", ["source"]
)
CONNECTIONS: Final = Counter(
    "eventstream_connections", "Streams of a source by how they ended", ["source", "end"]
)
DEAD_LETTERS: Final = Gauge(
    "eventstream_dead_letters", "Events of a source that could not be applied", ["source"]
)
GROUP_UNITS: Final = Histogram(
    "eventstream_commit_units", "Units in one durable commit", buckets=(1, 2, 4, 8, 16, 32, 64)
)
