"""What is a match: thresholds, watchlists, and the numbers of persons that rates are turned into cosines with.

`Rules` are what operators set for a store; a `Policy` is what they come to with so many persons. Both are immutable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import structlog
from poi.v1 import common_pb2, match_pb2, watchlist_pb2

from match_svc import hours
from match_svc.calibration import Calibration, shipped
from match_svc.people import Person

_log = structlog.get_logger(__name__)

_STEPS: Final = 100
"""Limits of rows follow rates in steps of one in so many, downwards: a person more raises the cosine by a hair, which
must not rewrite the limits of a million rows. Hits are then judged exactly."""
_NEVER: Final = (math.inf, math.inf)


class Cosines(NamedTuple):
    """What a threshold comes to. `cosines[aligned]` is that of a kind of probe."""

    unaligned: float
    aligned: float
    persons: int = 0
    """How many it was computed for; 0 for one that is a cosine anyway."""
    extrapolated: bool = False

    def loosest(self) -> tuple[float, float]:
        """(aligned, unaligned), at most these: what limits of rows are set to."""
        if not self.persons:
            return self.aligned, self.unaligned
        return math.floor(self.aligned * _STEPS) / _STEPS, math.floor(self.unaligned * _STEPS) / _STEPS


class Terms(NamedTuple):
    """What a list asks of a face where and when it applies."""

    cosines: Cosines
    severity: common_pb2.Severity.ValueType


class Verdict(NamedTuple):
    """Why a face is a match."""

    threshold: float
    severity: common_pb2.Severity.ValueType
    watchlists: tuple[str, ...]
    """Names of the lists whose conditions it meets, the highest severity first."""


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """A watchlist with its thresholds as cosines."""

    name: str
    everywhere: Terms
    cameras: frozenset[str]
    hours: hours.Hours | None
    overrides: Mapping[str, Terms]
    """By camera."""

    def at(self, sighting: common_pb2.Detection | None) -> Terms | None:
        """What it asks there and then; None where it does not apply. A face of no camera and no time: what it asks
        where nothing else is said."""
        if sighting is None:
            return self.everywhere
        camera = sighting.camera
        if self.cameras and camera not in self.cameras:
            return None
        if self.hours is not None and not self.hours.at(sighting.detect_time.seconds):
            return None
        return self.overrides.get(camera, self.everywhere)

    def loosest(self) -> tuple[float, float]:
        """(aligned, unaligned): no lower threshold holds anywhere."""
        every = [terms.cosines.loosest() for terms in (self.everywhere, *self.overrides.values())]
        return min(aligned for aligned, _ in every), min(unaligned for _, unaligned in every)


class Policy:
    """What is a match in a store with so many persons."""

    def __init__(self, store: Cosines, lists: Mapping[str, Listing], calibration: Calibration) -> None:
        """`store` holds for persons on no list; `lists` by id."""
        self.store = store
        self.lists = lists
        self._calibration = calibration

    def judge(
        self, person: Person, similarity: float, aligned: bool, sighting: common_pb2.Detection | None
    ) -> Verdict | None:
        """Whether a face that is so similar to a person is a match where and when it was seen; None when it is not.

        A person on lists is matched where at least one of them applies, by their own threshold or else the lowest of
        the lists that apply.
        """
        own = person.threshold
        if not person.watchlists:
            threshold = self.store[aligned] if own is None else own
            return Verdict(threshold, person.severity, ()) if similarity >= threshold else None
        lowest = math.inf
        reached: list[tuple[common_pb2.Severity.ValueType, str]] = []
        for watchlist_id in person.watchlists:
            listing = self.lists.get(watchlist_id)
            terms = listing.at(sighting) if listing is not None else None
            if listing is None or terms is None:
                continue
            threshold = terms.cosines[aligned] if own is None else own
            lowest = min(lowest, threshold)
            if similarity >= threshold:
                reached.append((terms.severity or person.severity, listing.name))
        if not reached:
            return None
        reached.sort(key=lambda one: (-one[0], one[1]))
        return Verdict(lowest, reached[0][0], tuple(name for _, name in reached))

    def loosest(self, own: float | None, watchlists: tuple[str, ...]) -> tuple[float, float]:
        """(aligned, unaligned) cosines that every match of a person with this threshold and these lists reaches."""
        known = [self.lists[one].loosest() for one in watchlists if one in self.lists]
        if watchlists and not known:
            return _NEVER
        if own is not None:
            return own, own
        if not watchlists:
            return self.store.loosest()
        return min(aligned for aligned, _ in known), min(unaligned for _, unaligned in known)

    def false_match_rate(self, cosine: float, aligned: bool) -> float:
        """How often a stranger's face reaches this cosine with one person."""
        return self._calibration.false_match_rate(cosine, aligned)


class Rules:
    """What was set for a store."""

    def __init__(
        self,
        threshold: float | match_pb2.Threshold,
        watchlists: Iterable[watchlist_pb2.Watchlist] = (),
        calibration: Calibration | None = None,
        cosine: float | None = None,
    ) -> None:
        """`threshold` is the store's, a number being a cosine. The shipped calibration where none is given.

        `cosine` would be the store's threshold if that were not a rate.
        """
        if not isinstance(threshold, match_pb2.Threshold):
            threshold = match_pb2.Threshold(cosine=threshold)
        self._threshold = threshold
        self.cosine = threshold.cosine if cosine is None else cosine
        self._lists = {one.name.rpartition("/")[2]: one for one in watchlists}
        self._hours = {watchlist_id: _hours(one) for watchlist_id, one in self._lists.items()}
        self._calibration = calibration or shipped()
        thresholds = [threshold, *(one for each in self._lists.values() for one in _thresholds(each))]
        self.by_number = any(one.WhichOneof("kind") == "false_match_rate" for one in thresholds)
        """Whether anything depends on how many persons there are."""

    @classmethod
    def of(
        cls,
        default_threshold: float,
        calibration: Calibration,
        settings: match_pb2.MatchSettings,
        watchlists: Iterable[watchlist_pb2.Watchlist] = (),
    ) -> Rules:
        """Those of a store's settings and lists."""
        cosine = settings.threshold if settings.HasField("threshold") else default_threshold
        threshold = match_pb2.Threshold(cosine=cosine)
        if settings.HasField("target_false_match_rate"):
            threshold = match_pb2.Threshold(false_match_rate=settings.target_false_match_rate)
        return cls(threshold, watchlists, calibration, cosine)

    def policy(self, persons: int, members: Mapping[str, int]) -> Policy:
        """What they come to with so many persons in the store, and on each list."""
        store = self._cosines(self._threshold, persons)
        lists = {
            watchlist_id: self._listing(watchlist_id, one, members.get(watchlist_id, 0), store)
            for watchlist_id, one in self._lists.items()
        }
        return Policy(store, lists, self._calibration)

    def _listing(self, watchlist_id: str, watchlist: watchlist_pb2.Watchlist, persons: int, store: Cosines) -> Listing:
        everywhere = self._cosines(watchlist.threshold, persons) if watchlist.HasField("threshold") else store
        overrides: dict[str, Terms] = {}
        for override in watchlist.overrides:
            cosines = self._cosines(override.threshold, persons) if override.HasField("threshold") else everywhere
            for camera in override.cameras:
                overrides.setdefault(camera, Terms(cosines, override.severity or watchlist.severity))
        return Listing(
            watchlist.name,
            Terms(everywhere, watchlist.severity),
            frozenset(watchlist.cameras),
            self._hours[watchlist_id],
            overrides,
        )

    def _cosines(self, threshold: match_pb2.Threshold, persons: int) -> Cosines:
        if threshold.WhichOneof("kind") != "false_match_rate":
            return Cosines(threshold.cosine, threshold.cosine)
        persons = max(1, persons)
        rate = threshold.false_match_rate / persons
        (aligned, beyond), (unaligned, also) = (self._calibration.cosine(rate, which) for which in (True, False))
        # As float32, like similarities: who is at the limit must be so for both.
        return Cosines(float(np.float32(unaligned)), float(np.float32(aligned)), persons, beyond or also)


RulesOf = Callable[[match_pb2.MatchSettings, Iterable[watchlist_pb2.Watchlist]], Rules]
"""Makes a store's rules from its settings and its watchlists."""


def effective(cosines: Cosines, persons: int) -> match_pb2.EffectiveThresholds:
    """The contract's form; `persons` is their number where the threshold is a cosine."""
    return match_pb2.EffectiveThresholds(
        aligned=cosines.aligned,
        unaligned=cosines.unaligned,
        persons=cosines.persons or persons,
        extrapolated=cosines.extrapolated,
    )


def _thresholds(watchlist: watchlist_pb2.Watchlist) -> list[match_pb2.Threshold]:
    """All that a list may ask."""
    return [watchlist.threshold, *(override.threshold for override in watchlist.overrides)]


def _hours(watchlist: watchlist_pb2.Watchlist) -> hours.Hours | None:
    try:
        return hours.parse(watchlist.hours, watchlist.time_zone)
    except ValueError as error:
        # Checked when it was set; this machine knows fewer time zones. Better an alert too many than none.
        _log.error("watchlist_hours_unreadable", watchlist=watchlist.name, problem=str(error))
        return None
