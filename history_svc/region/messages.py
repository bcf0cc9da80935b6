"""The contract's messages to the room's own types, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, region_pb2

from history_svc.region import occupancy
from history_svc.region.model import SeenObject, Update, Visit
from history_svc.region.query import Filter
from mesh import names
from mesh.errors import InvalidArgument

_LATEST_MS = 253_402_300_799_999  # the end of the year 9999: what a Timestamp can say
_MAX_OBJECT_ID = 128
_MAX_TRACK = 4 + 128 + 1 + 160  # ingest may lengthen a camera's object id

# The same few zones and cameras come with every person of every update.
_is_id = lru_cache(4096)(names.is_id)


def read_update(store: str, message: region_pb2.SceneUpdate, now: int, max_ahead: int) -> tuple[str, Update]:
    """(scene id, update) of a message of this store.

    `now` and `max_ahead` in ms: an update from further in the future would make all that come before then look old.
    Raises InvalidArgument that names the field.
    """
    scene_store, scene = names.parse_scene(message.scene, "scene")
    _same_store(store, scene_store, "scene")
    if not message.HasField("update_time"):
        raise InvalidArgument(violations=[("update_time", "is required")])
    time = _floor_ms(message.update_time)
    if not 0 < time <= _LATEST_MS:
        raise InvalidArgument(violations=[("update_time", "is not a time after 1970")])
    if time > now + max_ahead:
        raise InvalidArgument(violations=[("update_time", "is in the future")], reason="CLOCK_AHEAD")
    if message.zone_id and not _is_id(message.zone_id):
        raise InvalidArgument(violations=[("zone_id", "is not an id")])
    objects = tuple(_read_object(store, seen, f"objects[{index}]") for index, seen in enumerate(message.objects))
    return scene, Update(time, objects, message.zone_id or None)


def read_interval(interval: common_pb2.Interval) -> tuple[int | None, int | None]:
    """(start, end) in ms, None where open. Raises InvalidArgument that names the field of the request."""
    start = _ceil_ms(interval.start_time) if interval.HasField("start_time") else None
    end = _ceil_ms(interval.end_time) if interval.HasField("end_time") else None
    if start is not None and end is not None and end <= start:
        raise InvalidArgument(violations=[("interval.end_time", "must be after start_time")])
    return start, end


def read_filter(store: str, request: region_pb2.ListVisitsRequest) -> Filter:
    """What a ListVisits request asks for. Raises InvalidArgument that names the field."""
    start, end = read_interval(request.interval)
    return Filter(
        start=start,
        end=end,
        zones=read_zones(store, request.zones),
        object_ids=frozenset(request.object_ids),
        cameras=frozenset(_read_cameras(store, request.cameras, "cameras")),
        open={region_pb2.VISIT_STATE_OPEN: True, region_pb2.VISIT_STATE_CLOSED: False}.get(request.state),
    )


def read_zones(store: str, zones: Iterable[str]) -> frozenset[tuple[str, str]]:
    """(scene, zone) of each name in the field `zones`. Raises InvalidArgument that names it."""
    found = set()
    for index, name in enumerate(zones):
        zone_store, scene, zone = names.parse_zone(name, f"zones[{index}]")
        _same_store(store, zone_store, f"zones[{index}]")
        found.add((scene, zone))
    return frozenset(found)


def write_visit(store: str, visit: Visit) -> region_pb2.Visit:
    """The visit as the contract has it."""
    is_open = visit.exit is None
    message = region_pb2.Visit(
        name=names.visit(store, visit.id),
        zone=names.zone(store, visit.scene, visit.zone),
        object_id=visit.object_id,
        state=region_pb2.VISIT_STATE_OPEN if is_open else region_pb2.VISIT_STATE_CLOSED,
        cameras=[names.camera(store, camera) for camera in visit.cameras],
        tracks=visit.tracks,
    )
    message.enter_time.FromMilliseconds(visit.enter)
    if visit.exit is not None:
        message.exit_time.FromMilliseconds(visit.exit)
    message.last_seen_time.FromMilliseconds(visit.seen)
    message.dwell.FromMilliseconds(visit.dwell)
    return message


def write_occupancy(
    store: str, scene: str, time: int | None, zones: tuple[str, ...], visits: list[Visit]
) -> region_pb2.Occupancy:
    """Who is where now, of the visits that go on."""
    message = region_pb2.Occupancy(name=f"{names.scene(store, scene)}/occupancy")
    if time is not None:
        message.update_time.FromMilliseconds(time)
    for zone in zones:
        inside = sorted(visit.object_id for visit in visits if visit.zone == zone)
        message.zones.add(zone=names.zone(store, scene, zone), count=len(inside), object_ids=inside)
    return message


def add_interval(
    message: region_pb2.Occupancy, start: int, end: int, zones: Mapping[str, occupancy.ZoneOccupancy]
) -> None:
    """Tell of the time from `start` to `end` (ms), too; `zones` by the zones' names in the message."""
    message.interval.start_time.FromMilliseconds(start)
    message.interval.end_time.FromMilliseconds(end)
    for zone in message.zones:
        found = zones.get(zone.zone, occupancy.NOBODY)
        told = zone.over_interval
        told.visits, told.visitors, told.peak_count = found.visits, found.visitors, found.peak
        told.average_count = found.dwell / (end - start)
        told.total_dwell.FromMilliseconds(found.dwell)
        if found.visits:
            told.mean_dwell.FromMilliseconds(round(found.dwell / found.visits))


def _read_object(store: str, message: region_pb2.SceneObject, path: str) -> SeenObject:
    if not 0 < len(message.object_id) <= _MAX_OBJECT_ID:
        raise InvalidArgument(violations=[(f"{path}.object_id", f"must have 1 to {_MAX_OBJECT_ID} characters")])
    zones: dict[str, int | None] = {}
    for index, presence in enumerate(message.zones):
        if not _is_id(presence.zone_id):
            raise InvalidArgument(violations=[(f"{path}.zones[{index}].zone_id", "is not an id")])
        if presence.HasField("enter_time"):
            zones[presence.zone_id] = _floor_ms(presence.enter_time)
        else:
            zones.setdefault(presence.zone_id, None)
    for index, track in enumerate(message.tracks):
        if not track.startswith("cam:") or len(track) > _MAX_TRACK:
            raise InvalidArgument(violations=[(f"{path}.tracks[{index}]", "must look like cam:{camera}:{object}")])
    cameras = tuple(_read_cameras(store, message.cameras, f"{path}.cameras"))
    return SeenObject(message.object_id, zones, cameras, tuple(message.tracks))


def _read_cameras(store: str, cameras: Iterable[str], path: str) -> list[str]:
    found = []
    for index, name in enumerate(cameras):
        try:
            camera_store, camera = _parse_camera(name)
            _same_store(store, camera_store, "")
        except InvalidArgument as error:
            raise InvalidArgument(violations=[(f"{path}[{index}]", error.violations[0][1])]) from None
        found.append(camera)
    return found


@lru_cache(4096)
def _parse_camera(name: str) -> tuple[str, str]:
    return names.parse_camera(name, "")


def _same_store(store: str, other: str, field: str) -> None:
    if other != store:
        raise InvalidArgument(violations=[(field, f"must be of stores/{store}")])


def _floor_ms(timestamp: Timestamp) -> int:
    return timestamp.seconds * 1000 + timestamp.nanos // 1_000_000


def _ceil_ms(timestamp: Timestamp) -> int:
    """For bounds: a visit's time in whole ms is before the bound exactly when it is before this."""
    return timestamp.seconds * 1000 - (-timestamp.nanos // 1_000_000)
