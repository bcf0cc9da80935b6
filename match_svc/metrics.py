"""What the match service tells Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from mesh.telemetry import LATENCY_BUCKETS

PEOPLE = Gauge("poi_gallery_people", "Persons of interest in this replica's gallery.", ["store"])
EXPIRED = Gauge("poi_gallery_expired_people", "Of these, persons who have expired and wait to be forgotten.", ["store"])
FORGOTTEN = Counter(
    "poi_registry_people_forgotten_total", "Persons who were deleted because they had expired.", ["store"]
)
ROWS = Gauge("poi_gallery_rows", "Rows that a search of this replica's gallery compares with.", ["store"])
REVISION = Gauge("poi_gallery_revision", "Last change of the registry that this replica's gallery has.")
LOADS = Counter("poi_gallery_loads_total", "Complete loads of the registry into this replica's gallery.")
FOLDS = Counter("poi_gallery_folds_total", "Times that new and left-over rows were folded into a new index.")
REFERENCES = Gauge("poi_gallery_references", "References of the persons in this replica's gallery.", ["store"])
PENDING = Gauge("poi_gallery_pending_rows", "References compared exactly until they are folded in.", ["store"])
LAG = Gauge("poi_gallery_lag_seconds", "Age of the oldest change that this replica's gallery does not have.")
UNCONFIRMED = Counter(
    "poi_gallery_unconfirmed_removals_total", "Removals answered before every live replica had confirmed them."
)

FACES = Counter("poi_match_faces_total", "Faces compared with the gallery.")
MATCHED = Counter("poi_match_faces_matched_total", "Faces that matched somebody.")
REFUSED = Counter("poi_match_faces_refused_total", "Faces that could not be used.")
DECISION_HITS = Counter(
    "poi_match_decision_hits_total", "Faces that still matched the persons their track had matched."
)
DECISION_MISSES = Counter(
    "poi_match_decision_misses_total", "Faces that no longer did, and were searched in the whole gallery."
)
DECISION_ERRORS = Counter("poi_match_decision_errors_total", "Times that Redis did not give or take decisions in time.")
POOLED_TRACKS = Gauge("poi_match_pooled_tracks", "Tracks of which this replica has pooled faces.")
RESTARTED = Counter(
    "poi_match_tracks_restarted_total", "Faces that did not fit what their track had shown: recycled ids, mostly."
)
WAITING = Counter(
    "poi_match_faces_waiting_total", "Single faces over a threshold, not clearly enough to match before the next one."
)
SEARCH_SECONDS = Histogram(
    "poi_match_search_seconds", "Searches of the whole gallery, one a batch, waiting included.", buckets=LATENCY_BUCKETS
)
