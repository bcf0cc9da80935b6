"""Batches that are written together, and what they add up to once it is decided where each detection belongs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from history_svc.appearances import Vector
from history_svc.draft import Draft
from history_svc.intake import Observation
from history_svc.records import PACKED, FrameLink, Track


@dataclass(slots=True)
class Job:
    """Observations or frames that wait for the disk; `done` is told the observations' appearances."""

    observations: list[Observation]
    links: list[FrameLink]
    done: asyncio.Future[list[bytes]]


@dataclass(slots=True)
class Group:
    """What jobs that are written together add up to."""

    answers: list[list[bytes]] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    tracks: dict[Track, int] = field(default_factory=dict)
    vectors: list[Vector] = field(default_factory=list)
    faces: list[bytes] = field(default_factory=list)  # rows of those with a vector
    face_appearances: list[bytes] = field(default_factory=list)
    face_cameras: list[str] = field(default_factory=list)
    links: list[FrameLink] = field(default_factory=list)
    newest_ns: int = 0


def decide(draft: Draft, jobs: list[Job]) -> Group:
    """Decides the appearance of each observation and packs those that are new."""
    group = Group()
    tracks, rows = group.tracks, group.rows
    for job in jobs:
        answer: list[bytes] = []
        for detection, track, time_ns, flags, alignment, boxes, score, vector in job.observations:
            appearance = draft.known(detection)
            if appearance is None:
                appearance, likeness = draft.choose(detection, track, time_ns, vector)
                at = tracks.setdefault(track, len(tracks))
                row = PACKED.pack(detection, appearance, time_ns, at, flags, alignment, *boxes)
                draft.place(detection, appearance, track, time_ns, row, score, vector, likeness)
                rows.append(row)
                if time_ns > group.newest_ns:
                    group.newest_ns = time_ns
                if vector is not None:
                    group.vectors.append(vector)
                    group.faces.append(row)
                    group.face_appearances.append(appearance)
                    group.face_cameras.append(track[0])
            answer.append(appearance)
        for link in job.links:
            change = draft.link(link)
            if change is not None:
                group.links.append(change)
                group.newest_ns = max(group.newest_ns, link.frame.time_ns)
        group.answers.append(answer)
    return group
