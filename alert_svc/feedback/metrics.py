"""Verdicts as Prometheus counters: what the false-match rate is made of.

    sum by (camera) (increase(poi_alert_verdicts_total{verdict="not_this_person"}[7d]))
      / sum by (camera) (increase(poi_alert_verdicts_total[7d]))

A counter begins at 0 with its server; `rate` and `increase` bear that. So that they see the first verdict as well, a
series is there with 0 from when an alert could have one, and at a server's start for all that has a report.
A verdict that repeats the pair's last one does not count; a correction counts as what it says.
"""

from __future__ import annotations

from typing import Final

from poi.v1 import feedback_pb2, match_pb2
from prometheus_client import Counter

from mesh import names

MAX_PLACES: Final = 2_000
"""Camera and watchlist pairs, of all stores, that have series of their own; the others share `other`."""
MAX_POIS: Final = 1_000
"""Persons, of all stores, that have series of their own."""

VERDICTS: Final = Counter(
    "poi_alert_verdicts_total",
    "What people said of matches, by camera (empty where not known) and most severe watchlist (empty for none).",
    ("store", "verdict", "camera", "watchlist"),
)
POI_VERDICTS: Final = Counter(
    "poi_alert_verdicts_by_poi_total",
    "What people said of matches, by id of the person.",
    ("store", "verdict", "poi"),
)
_LABELS: Final = {
    feedback_pb2.MATCH_VERDICT_CONFIRMED: "confirmed",
    feedback_pb2.MATCH_VERDICT_NOT_THIS_PERSON: "not_this_person",
}


class Bounded:
    """Lets so many different label sets through; those that come later are `other`."""

    def __init__(self, limit: int) -> None:
        self._limit, self._known = limit, set[tuple[str, ...]]()

    def __call__(self, *values: str) -> tuple[tuple[str, ...], bool]:
        """The labels to take, and whether they are new."""
        if values in self._known:
            return values, False
        if len(self._known) < self._limit:
            self._known.add(values)
            return values, True
        return ("other",) * len(values), False


_places: Final = Bounded(MAX_PLACES)
_pois: Final = Bounded(MAX_POIS)


def expect(poi: str, match: match_pb2.Match, camera: str) -> None:
    """Somebody may say something of this match: its series begin with 0."""
    _series(poi, match, camera)


def count(report: feedback_pb2.MatchReport) -> None:
    """Somebody has said something new."""
    (store, camera, watchlist), (poi_store, poi) = _series(report.poi, report.match, report.camera)
    verdict = _LABELS[report.verdict]
    VERDICTS.labels(store, verdict, camera, watchlist).inc()
    POI_VERDICTS.labels(poi_store, verdict, poi).inc()


def _series(poi: str, match: match_pb2.Match, camera: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    store_id, poi_id = names.parse_poi(poi)
    watchlist = match.watchlists[0] if match.watchlists else ""
    place, place_is_new = _places(store_id, *(name.rpartition("/")[2] for name in (camera, watchlist)))
    person, person_is_new = _pois(store_id, poi_id)
    for verdict in _LABELS.values():
        if place_is_new:
            VERDICTS.labels(place[0], verdict, *place[1:])
        if person_is_new:
            POI_VERDICTS.labels(person[0], verdict, person[1])
    return place, person
