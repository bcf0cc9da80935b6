"""What is counted of the pictures of alerts."""

from prometheus_client import Counter, Histogram

MADE = Counter("poi_alert_evidence_made_total", "Alerts that were given their pictures.")
GIVEN_UP = Counter(
    "poi_alert_evidence_given_up_total", "Alerts that get no picture: no frame came, or none to be shown."
)
FAILED = Counter("poi_alert_evidence_failed_total", "Attempts that history or match did not answer; they are repeated.")
SECONDS = Histogram(
    "poi_alert_evidence_seconds",
    "From an alert to its pictures.",
    buckets=(0.25, 0.5, 1, 2, 4, 8, 16, 32, 64),
)
