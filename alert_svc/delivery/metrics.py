"""What delivery counts."""

from prometheus_client import Counter, Gauge, Histogram

from mesh.telemetry import LATENCY_BUCKETS

ATTEMPTS = Counter(
    "poi_delivery_attempts_total",
    "Attempts to deliver an event, by kind of target and how they went.",
    ["kind", "went"],
)
DEAD = Counter("poi_delivery_dead_letters_total", "Events that were given up, by kind of target.", ["kind"])
MISSED = Counter(
    "poi_delivery_log_expired_total", "Times that a target was behind by more than the alert log keeps.", ["kind"]
)
SECONDS = Histogram("poi_delivery_attempt_seconds", "How long an attempt took.", ["kind"], buckets=LATENCY_BUCKETS)
LAG = Histogram(
    "poi_delivery_lag_seconds",
    "From an event's place in the log to its delivery.",
    ["kind"],
    buckets=(*LATENCY_BUCKETS, 60.0, 600.0, 3600.0, 86400.0),
)
OWNED = Gauge("poi_delivery_targets", "Targets that this server delivers to.")
CLIENTS = Gauge("poi_delivery_websocket_clients", "WebSocket clients that are connected.")
