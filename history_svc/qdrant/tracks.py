"""Tracks: read, and written only where nobody else wrote since. Calls block; of one thread at a time."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from qdrant_client import models

from history_svc.appearances import Appearance
from history_svc.qdrant.database import Database, between, equals, one_of
from history_svc.qdrant.states import (
    TrackState,
    appearance_point,
    read_appearance,
    read_track,
    track_point,
    track_point_id,
)
from history_svc.records import Track

_REMEMBERED: Final = 65_536


class Tracks:
    """See the module. `gap_ns` as in appearances.Rules."""

    def __init__(self, database: Database, gap_ns: int) -> None:
        self._database, self._gap_ns = database, gap_ns
        # The version of each track after a write of this process that was completed: nothing of it is pending.
        self._completed: OrderedDict[Track, str] = OrderedDict()

    def read(self, tracks: Iterable[Track]) -> dict[Track, TrackState]:
        """Each of these as it is, new where there is none.

        What is pending may be there meanwhile: ask for detections after this, never before.
        """
        store = self._database.store
        ids = {track_point_id(store, one): one for one in tracks}
        found = self._database.get(self._database.records, ids, ["version", "revision", "state"])
        states = {track: TrackState(track) for track in ids.values()}
        states |= {ids[key]: read_track(payload) for key, payload in found.items()}
        for track, state in states.items():
            if self._completed.get(track) == state.version:
                state.pending = {}
        return states

    def settled(self, sights: Sequence[tuple[TrackState, int]]) -> list[Appearance]:
        """The appearances that a late arrival at one of these moments (in ns) may belong to; perhaps more."""
        late = [(one, at) for one, at in sights if at - self._gap_ns <= one.settled_end_ns]
        if not late:
            return []
        store = self._database.store
        times = [at for _, at in late]
        wanted = self._database.where(
            equals("kind", "appearance"),
            one_of("track", {track_point_id(store, one.track) for one, _ in late}),
            between("start_us", None, (max(times) + self._gap_ns) // 1000 + 1),
            between("end_us", (min(times) - self._gap_ns) // 1000, None),
        )
        points = self._database.scroll(self._database.records, wanted, ["state"])
        return [read_appearance(point.payload or {}) for point in points]

    def write(self, states: Collection[TrackState], changed: Collection[bytes]) -> bool:
        """Writes these, of which these appearances changed; False when somebody else wrote one of them meanwhile.

        What was written then is there as it is. They have their new versions and revisions in any case.
        """
        expected = [one.version for one in states]
        revision = max(time.time_ns() // 1000, *(one.revision + 1 for one in states))
        for one in states:
            self._settle(one, changed)
            one.version, one.revision = uuid.uuid4().hex, revision
        # A version is of one track only, and a track that is not there is written anyway.
        only = models.Filter(must=[one_of("version", expected)])
        store, records = self._database.store, self._database.records
        self._database.put(records, [track_point(store, one) for one in states], only)
        wanted = {track_point_id(store, one.track): one.version for one in states}
        found = self._database.get(records, wanted, ["version"])
        return all(key in found and found[key]["version"] == version for key, version in wanted.items())

    def show(self, states: Iterable[TrackState], shown: Collection[bytes]) -> None:
        """Writes these appearances as their tracks have them, except where there is something newer."""
        by_revision: dict[int, list[models.PointStruct]] = {}
        for state in states:
            for key, one in state.appearances.items():
                if key in shown:
                    point = appearance_point(self._database.store, one, state.revision)
                    by_revision.setdefault(state.revision, []).append(point)
        for revision, points in by_revision.items():
            older = models.Filter(must=[between("revision", None, revision)])
            self._database.put(self._database.records, points, older)

    def complete(self, states: Iterable[TrackState]) -> None:
        """All that these, as they were written here, name as pending is there."""
        for one in states:
            self._completed[one.track] = one.version
            self._completed.move_to_end(one.track)
        while len(self._completed) > _REMEMBERED:
            self._completed.popitem(last=False)

    def _settle(self, state: TrackState, changed: Collection[bytes]) -> None:
        """Leaves out what no detection in good order can join. What may not have been shown stays."""
        newest = max((one.end_ns for one in state.appearances.values()), default=0)
        unsure = {*changed, *state.pending.values()}
        for key, one in list(state.appearances.items()):
            if one.end_ns + self._gap_ns < newest and key not in unsure:
                del state.appearances[key]
                state.settled_end_ns = max(state.settled_end_ns, one.end_ns)
