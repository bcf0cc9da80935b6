"""How a group of batches becomes durable, and how one that was cut off is completed. Calls block; of one thread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from history_svc.appearances import Appearance, Rules, Vector
from history_svc.book import Book
from history_svc.draft import Draft, Shelved
from history_svc.group import Group, Job, decide
from history_svc.intake import Observation
from history_svc.qdrant.database import Database
from history_svc.qdrant.index import QdrantIndex, point_of
from history_svc.qdrant.reads import QdrantReads
from history_svc.qdrant.states import TrackState, frame_point, frame_point_id, uuid_of
from history_svc.qdrant.tracks import Tracks
from history_svc.records import HAS_VECTOR, PACKED, ROW, Track, appearance_numbers


class Appender:
    """See the module."""

    def __init__(
        self, database: Database, index: QdrantIndex, tracks: Tracks, reads: QdrantReads, rules: Rules
    ) -> None:
        self._database, self._index, self._tracks, self._reads, self._rules = database, index, tracks, reads, rules

    def append(self, jobs: list[Job]) -> Group | None:
        """Decides about all of these, writes it, and returns what that came to.

        None when somebody else wrote the same tracks meanwhile: try again, nothing is counted twice. Raises
        Unavailable; part of it may be there then, and is completed when it is sent again.
        """
        observations = [one for job in jobs for one in job.observations]
        self._write_frames(jobs)
        linked = {one for job in jobs for link in job.links for one in link.appearances}
        shown = self._reads.with_ids(linked)
        tracks = {one.track for one in observations} | {(one.camera, one.object_id) for one in shown.values()}
        # Tracks, then what is there: who is writing a detection at this moment is seen in one of them, or else changes
        # the track after we read it, and then we do not get to write it.
        states = self._tracks.read(tracks)
        pending = {key: one for state in states.values() for key, one in state.pending.items()}
        known = self._index.stored({*pending, *(one.detection for one in observations)})
        pending = {key: one for key, one in pending.items() if key not in known}
        for state in states.values():
            state.pending = {key: one for key, one in state.pending.items() if key in pending}
        if linked:
            shown = self._reads.with_ids(linked)
        new = [one for one in observations if one.detection not in known and one.detection not in pending]
        settled = self._tracks.settled([(states[one.track], one.time_ns) for one in new])
        candidates = {one.id: one for one in settled} | shown
        for state in states.values():
            candidates |= state.appearances  # a track is newer than what it shows

        draft = Draft(Book(self._rules.gap_ns), self._rules, Shelved(known | pending, candidates))
        group = decide(draft, jobs)

        changed = {one.id: one for one in draft.changed() if _differs(one, candidates.get(one.id))}
        written: dict[Track, TrackState] = {}
        for one in changed.values():
            state = states[one.camera, one.object_id]
            state.appearances[one.id] = one
            written[state.track] = state
        rows = np.frombuffer(b"".join(group.rows), ROW)
        names = list(group.tracks)
        for row in rows:
            states[names[row["track"]]].pending[row["detection"].tobytes()] = row["appearance"].tobytes()
        if written and not self._tracks.write(list(written.values()), changed):
            return None
        self._tracks.show(states.values(), {*changed, *pending.values(), *linked})
        again = [one for one in observations if one.detection in pending]
        stored = self._write_detections(group, names, again, pending)
        self._tracks.complete(one for one in written.values() if one.pending.keys() <= stored)
        return group

    def _write_detections(
        self, group: Group, names: Sequence[Track], again: Sequence[Observation], pending: dict[bytes, bytes]
    ) -> set[bytes]:
        """Those of the group, and those that somebody counted who did not get so far as to write them; returns both."""
        faces = iter(group.vectors)
        found: dict[bytes, tuple[str, bytes, Vector | None]] = {}
        for packed in group.rows:
            detection, _, _, track, flags, *_ = PACKED.unpack(packed)
            found[detection] = names[track][0], packed, next(faces) if flags & HAS_VECTOR else None
        for detection, track, time_ns, flags, alignment, boxes, _, vector in again:
            packed = PACKED.pack(detection, pending[detection], time_ns, 0, flags, alignment, *boxes)
            found[detection] = track[0], packed, vector
        if not found:
            return set()
        rows = np.frombuffer(b"".join(packed for _, packed, _ in found.values()), ROW)
        appearances = appearance_numbers(rows["appearance"]).tolist()
        numbers = self._index.numbers(len(rows))
        store = self._database.store
        self._index.write(
            [
                point_of(store, number, appearance, camera, row, vector)
                for number, appearance, row, (camera, _, vector) in zip(
                    numbers, appearances, rows, found.values(), strict=True
                )
            ]
        )
        return set(found)

    def _write_frames(self, jobs: Sequence[Job]) -> None:
        """Before the appearances that name them, so that an erasure finds each image."""
        links = [one for job in jobs for one in job.links]
        if not links:
            return
        store, records = self._database.store, self._database.records
        shows: dict[str, dict[str, None]] = {}
        for link in links:
            shows.setdefault(link.frame.id, {}).update(dict.fromkeys(map(uuid_of, link.appearances)))
        ids = {frame_point_id(store, link.frame.id): link.frame for link in links}
        for key, payload in self._database.get(records, ids, ["shows"]).items():
            shows[ids[key].id].update(dict.fromkeys(payload["shows"]))
        points = [frame_point(store, one, list(shows[one.id])) for one in ids.values()]
        self._database.put(records, points)


def _differs(one: Appearance, known: Appearance | None) -> bool:
    """Whether a draft did more than look at it."""
    return known is None or (one.count, one.frames) != (known.count, known.frames)
