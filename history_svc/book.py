"""The appearances that can still change, or that no sealed segment has as they are, and what else the log alone has.

In memory. Of the loop's thread.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from history_svc.appearances import Appearance
from history_svc.records import FrameLink, Track, appearance_number

_HOUR_NS = 3_600_000_000_000
_RECENT = 4


@dataclass(slots=True)
class _Timeline:
    """The appearances of one track. Those that a detection in good order can still join are `recent`."""

    recent: list[Appearance] = field(default_factory=list)
    settled: list[Appearance] = field(default_factory=list)
    settled_end_ns: int = -(1 << 62)


class Book:
    """See the module. `gap_ns` as in appearances.Rules."""

    def __init__(self, gap_ns: int) -> None:
        self._gap_ns = gap_ns
        self.epoch = 1
        """What is put is of this epoch; one more with each log file."""
        self.fresh = 0
        """How many appearances are in no sealed segment."""
        self._by_id: dict[bytes, Appearance] = {}
        self._by_number: dict[int, Appearance] = {}
        self._timelines: dict[Track, _Timeline] = {}
        self._by_start: list[tuple[int, bytes]] = []
        self._longest_ns = 0
        self._of_detection: dict[bytes, Appearance] = {}
        self._detections_by_hour: dict[int, list[bytes]] = {}
        self._frames: dict[str, tuple[int, FrameLink]] = {}  # with their epochs
        self._newest_ns: dict[str, int] = {}  # by camera: the end of any appearance that was ever put

    def __len__(self) -> int:
        """How many appearances."""
        return len(self._by_id)

    @property
    def detection_count(self) -> int:
        """How many detections are in no sealed segment."""
        return len(self._of_detection)

    @property
    def oldest_ns(self) -> int | None:
        """When the first of the appearances began; None without one."""
        return self._by_start[0][0] if self._by_start else None

    def get(self, appearance: bytes) -> Appearance | None:
        """The appearance with this id."""
        return self._by_id.get(appearance)

    def numbered(self, number: int) -> Appearance | None:
        """The appearance that the index knows by this number."""
        return self._by_number.get(number)

    def numbers(self) -> frozenset[int]:
        """Those of all appearances."""
        return frozenset(self._by_number)

    def appearance_of(self, detection: bytes) -> Appearance | None:
        """The appearance of a detection that is stored, and in no sealed segment."""
        return self._of_detection.get(detection)

    def frame(self, frame_id: str) -> FrameLink | None:
        """The frame with this id, and what it shows as far as that is in no sealed segment."""
        found = self._frames.get(frame_id)
        return found[1] if found else None

    def near(self, track: Track, time_ns: int) -> list[Appearance]:
        """Those of a track that may be within the gap of `time_ns`; never too few."""
        timeline = self._timelines.get(track)
        if timeline is None:
            return []
        if time_ns - self._gap_ns > timeline.settled_end_ns:
            return timeline.recent
        return timeline.recent + timeline.settled  # a late arrival

    def newest_first(
        self,
        start_ns: int | None,
        end_ns: int | None,
        after: tuple[int, bytes] | None,
        cameras: Collection[str] | None = None,
    ) -> list[Appearance]:
        """Those that overlap [start_ns, end_ns) on one of `cameras`, by (start, id) falling, after the key `after`."""
        position = len(self._by_start)
        if end_ns is not None:
            position = bisect_left(self._by_start, (end_ns, b""))
        if after is not None:
            position = min(position, bisect_left(self._by_start, after))
        found: list[Appearance] = []
        for at in range(position - 1, -1, -1):
            begin_ns, appearance_id = self._by_start[at]
            if start_ns is not None and begin_ns + self._longest_ns < start_ns:
                break
            appearance = self._by_id[appearance_id]
            if (start_ns is None or appearance.end_ns >= start_ns) and (
                cameras is None or appearance.camera in cameras
            ):
                found.append(appearance)
        return found

    def put(self, appearance: Appearance) -> Appearance:
        """Adds an appearance, or takes over its new state; returns the one that the book keeps."""
        known = self._by_id.get(appearance.id)
        track = (appearance.camera, appearance.object_id)
        if known is None:
            known = appearance
            known.number = appearance_number(known.id)
            self.fresh += not known.shelved
            self._by_id[known.id] = self._by_number[known.number] = known
            self._timelines.setdefault(track, _Timeline()).recent.append(known)
            key = (known.start_ns, known.id)
            if not self._by_start or key > self._by_start[-1]:
                self._by_start.append(key)  # nearly always
            else:
                insort(self._by_start, key)
        else:
            if known.start_ns != appearance.start_ns:
                del self._by_start[bisect_left(self._by_start, (known.start_ns, known.id))]
                insort(self._by_start, (appearance.start_ns, known.id))
            known.assign(appearance)
        known.epoch = self.epoch
        length_ns = known.end_ns - known.start_ns
        if length_ns > self._longest_ns:
            self._longest_ns = length_ns
        timeline = self._timelines[track]
        if len(timeline.recent) != 1 or timeline.recent[0] is not known:
            self._settle(timeline, known)
        if known.end_ns > self._newest_ns.get(known.camera, 0):
            self._newest_ns[known.camera] = known.end_ns
        return known

    def put_detections(self, appearance: Appearance, detections: list[tuple[bytes, int]]) -> None:
        """Remembers (id, time in ns) of detections as those of an appearance in the book."""
        for detection, time_ns in detections:
            self._of_detection[detection] = appearance
            self._detections_by_hour.setdefault(time_ns // _HOUR_NS, []).append(detection)

    def put_frame(self, link: FrameLink) -> None:
        """Adds a frame, or more of what it shows; the appearances themselves are `put`."""
        known = self._frames.get(link.frame.id)
        shown = (*known[1].appearances, *link.appearances) if known else link.appearances
        self._frames[link.frame.id] = self.epoch, FrameLink(link.frame, tuple(dict.fromkeys(shown)))

    def forget_detections(self, detections: Collection[bytes]) -> None:
        """These are in a sealed segment now. Call `tidy` when all of its are forgotten."""
        known = self._of_detection
        for detection in detections:
            known.pop(detection, None)

    def tidy(self) -> None:
        """Gives free what is left of forgotten detections."""
        known = self._of_detection
        hours = self._detections_by_hour.items()
        self._detections_by_hour = {
            hour: kept for hour, ids in hours if (kept := [detection for detection in ids if detection in known])
        }

    def shelve(self, epoch: int) -> list[Appearance]:
        """What was put until this epoch is in a sealed segment now, as it is.

        Forgets the frames, and the appearances that no detection in good order can join; returns these.
        """
        self._frames = {key: kept for key, kept in self._frames.items() if kept[0] > epoch}
        gone = []
        for appearance in self._by_id.values():
            if appearance.epoch <= epoch:
                self.fresh -= not appearance.shelved
                appearance.shelved = True
                if appearance.end_ns + self._gap_ns < self._newest_ns[appearance.camera]:
                    gone.append(appearance)
        self.remove(gone)
        return gone

    def remove(self, appearances: Iterable[Appearance]) -> None:
        """Forgets these, which are in the book."""
        ids: set[bytes] = set()
        tracks: set[Track] = set()
        for appearance in appearances:
            del self._by_id[appearance.id], self._by_number[appearance.number]
            self.fresh -= not appearance.shelved
            ids.add(appearance.id)
            tracks.add((appearance.camera, appearance.object_id))
        if not ids:
            return
        self._by_start = [key for key in self._by_start if key[1] not in ids]
        for track in tracks:
            timeline = self._timelines[track]
            timeline.recent = [one for one in timeline.recent if one.id not in ids]
            timeline.settled = [one for one in timeline.settled if one.id not in ids]
            if not timeline.recent and not timeline.settled:
                del self._timelines[track]

    def detections_of(self, appearances: Collection[bytes]) -> dict[bytes, bytes]:
        """The detections of these that are in no sealed segment, and their appearances."""
        return {key: one.id for key, one in self._of_detection.items() if one.id in appearances}

    def erase(self, appearances: Collection[bytes], frames: Collection[str]) -> None:
        """Forgets these appearances with their detections, and these frames."""
        self.remove([self._by_id[one] for one in appearances if one in self._by_id])
        self.forget_detections(self.detections_of(appearances))
        for one in self._by_id.values():
            if any(frame.id in frames for frame in one.frames):
                one.frames = tuple(frame for frame in one.frames if frame.id not in frames)
        for frame_id in frames:
            self._frames.pop(frame_id, None)

    def drop_before(self, time_ns: int) -> None:
        """Forgets what ended before `time_ns`."""
        begun = bisect_left(self._by_start, (time_ns, b""))
        started = [self._by_id[key[1]] for key in self._by_start[:begun]]
        self.remove([one for one in started if one.end_ns < time_ns])
        for hour in [one for one in self._detections_by_hour if (one + 1) * _HOUR_NS <= time_ns]:
            for detection in self._detections_by_hour.pop(hour):
                self._of_detection.pop(detection, None)
        self._frames = {key: kept for key, kept in self._frames.items() if kept[1].frame.time_ns >= time_ns}

    def _settle(self, timeline: _Timeline, changed: Appearance) -> None:
        if len(timeline.recent) > _RECENT:
            newest = max(one.end_ns for one in timeline.recent)
            old = [one for one in timeline.recent if one.end_ns + self._gap_ns < newest]
            timeline.recent = [one for one in timeline.recent if one.end_ns + self._gap_ns >= newest]
            timeline.settled += old
            timeline.settled_end_ns = max([timeline.settled_end_ns, *(one.end_ns for one in old)])
        if changed not in timeline.recent:
            timeline.settled_end_ns = max(timeline.settled_end_ns, changed.end_ns)
