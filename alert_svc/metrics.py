"""What the alert service counts."""

from prometheus_client import Counter, Gauge, Histogram

from mesh.telemetry import LATENCY_BUCKETS

RAISED = Counter("poi_alerts_raised_total", "Alerts that were created.")
DUPLICATES = Counter("poi_alert_duplicates_total", "Candidates whose person had an alert in that appearance already.")
SUPPRESSED = Counter(
    "poi_alerts_suppressed_total", "Candidates that were, or had been, added to an earlier alert of the person."
)
RUNNERS_UP = Counter(
    "poi_alert_runners_up_total", "Candidates whose person became a runner-up of another person's alert, or was one."
)
REJECTED = Counter(
    "poi_alert_candidates_rejected_total", "Candidates whose person somebody had said not to be in that appearance."
)
REFUSED = Counter("poi_alert_candidates_refused_total", "Candidates that were refused.")
STREAMS = Gauge("poi_alert_streams", "StreamAlerts calls that are open.")
LAG = Histogram(
    "poi_alert_stream_lag_seconds", "From a live change to its handing over to a stream.", buckets=LATENCY_BUCKETS
)
