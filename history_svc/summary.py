"""What a search found, summed up: first and last sight, cameras, and dwell by zone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from poi.v1 import history_pb2

from history_svc.appearances import Appearance
from history_svc.search import Hit
from history_svc.translate import timestamp
from history_svc.visits import Found, Stay
from mesh import names

_MAX_OBJECTS: Final = 100


def united(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, end) of what the spans cover together, by start: those that overlap or touch are one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def summary(store: str, hits: Sequence[Hit], found: Found) -> history_pb2.AppearanceSummary:
    """The sum of one or more hits; `found` has the visits of all their cameras and time."""
    by_camera: dict[str, list[Appearance]] = defaultdict(list)
    for hit in hits:
        by_camera[names.camera(store, hit.appearance.camera)].append(hit.appearance)
    cameras = [
        history_pb2.CameraSummary(
            camera=camera,
            appearance_count=len(appearances),
            start_time=timestamp(min(one.start_ns for one in appearances)),
            end_time=timestamp(max(one.end_ns for one in appearances)),
        )
        for camera, appearances in by_camera.items()
    ]
    cameras.sort(key=lambda one: (one.start_time.ToNanoseconds(), one.camera))
    return history_pb2.AppearanceSummary(
        start_time=cameras[0].start_time,
        end_time=max((one.end_time for one in cameras), key=lambda time: time.ToNanoseconds()),
        cameras=cameras,
        zones=_zones(by_camera, found),
        visits_partial=found.partial,
    )


def _zones(by_camera: dict[str, list[Appearance]], found: Found) -> list[history_pb2.ZoneSummary]:
    spans: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for camera, appearances in by_camera.items():
        for one in appearances:
            spans[camera, one.object_id].append((one.start_ns, one.end_ns))
    by_zone: dict[str, dict[str, Stay]] = defaultdict(dict)
    for (camera, object_id), of_object in spans.items():
        for start_ns, end_ns in united(of_object):
            for stay in found.during(camera, start_ns, end_ns, object_id):
                by_zone[stay.visit.zone][stay.visit.name] = stay  # two cameras may have seen it
    zones = [_zone(zone, list(stays.values())) for zone, stays in by_zone.items()]
    zones.sort(key=lambda one: (-one.dwell.ToNanoseconds(), one.zone))
    return zones


def _zone(zone: str, stays: list[Stay]) -> history_pb2.ZoneSummary:
    spans = united((one.start_ns, one.end_ns) for one in stays)
    message = history_pb2.ZoneSummary(
        zone=zone,
        visit_count=len(stays),
        start_time=timestamp(spans[0][0]),
        end_time=timestamp(spans[-1][1]),
        object_ids=sorted({one.visit.object_id for one in stays})[:_MAX_OBJECTS],
    )
    message.dwell.FromNanoseconds(sum(end - start for start, end in spans))
    return message
