"""What the history server counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from mesh.telemetry import LATENCY_BUCKETS

APPENDED = Counter("poi_history_appended_total", "Detections made durable.")
DUPLICATES = Counter("poi_history_duplicates_total", "Detections that were stored already.")
REFUSED = Counter("poi_history_refused_total", "Detections and frames refused, by reason.", ["reason"])
FRAMES = Counter("poi_history_frames_total", "Evidence frames made durable.")
WRITE_FAILURES = Counter("poi_history_write_failures_total", "Groups of batches that the disk did not take.")
OBJECT_FAILURES = Counter(
    "poi_history_object_failures_total", "Calls that the store of evidence frames did not take, by call.", ["call"]
)
GROUP_BATCHES = Histogram(
    "poi_history_group_batches", "Batches that shared one fdatasync.", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
FSYNC_SECONDS = Histogram("poi_history_fsync_seconds", "Duration of write and fdatasync.", buckets=LATENCY_BUCKETS)
SEARCH_SECONDS = Histogram("poi_history_search_seconds", "Duration of vector search.", buckets=LATENCY_BUCKETS)
ROWS = Gauge("poi_history_rows", "Faces that can be searched.")
DETECTIONS = Gauge("poi_history_detections", "Detections that are kept.")
APPEARANCES = Gauge("poi_history_appearances", "Appearances that are kept.")
TRUNCATED_BYTES = Counter("poi_history_truncated_bytes_total", "Bytes of a torn log tail cut off at start.")
QUARANTINED_BYTES = Counter("poi_history_quarantined_bytes_total", "Damaged bytes of the log put aside.")
VISITS_MISSING = Counter("poi_history_visits_missing_total", "Answers without zone visits, as RegionService was away.")
SEAL_SECONDS = Histogram("poi_history_seal_seconds", "Duration of making a sealed segment.", buckets=LATENCY_BUCKETS)
SEAL_FAILURES = Counter("poi_history_seal_failures_total", "Segments that could not be made, and are tried again.")
SEGMENTS = Gauge("poi_history_segments", "Sealed segments.")
QUARANTINED_SEGMENTS = Gauge("poi_history_quarantined_segments", "Damaged sealed segments in quarantine.")
QUARANTINED_FILES = Gauge("poi_history_quarantined_files", "Damaged pieces of the log, and other files, in quarantine.")
CONFLICTS = Counter("poi_history_conflicts_total", "Groups of batches decided again, as others wrote the same tracks.")
ERASED = Counter("poi_history_erased_total", "Appearances erased.")
OLDEST_SECONDS = Gauge(
    "poi_history_oldest_timestamp_seconds", "Time of the oldest detection on disk, since 1970; 0 when there is none."
)
