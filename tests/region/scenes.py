"""Short ways to say who is where."""

import gzip
import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from poi.v1 import region_pb2

from history_svc.region.model import Event, SeenObject, Update, Visit
from history_svc.region.tracker import Changes

SECOND = 1000


def seen(
    object_id: str,
    *zones: str,
    entered: dict[str, int] | None = None,
    cameras: Iterable[str] = (),
    tracks: Iterable[str] = (),
) -> SeenObject:
    """A person in some zones, with the entries (ms) that the scene controller claims."""
    return SeenObject(object_id, {zone: (entered or {}).get(zone) for zone in zones}, tuple(cameras), tuple(tracks))


def at(seconds: float, *objects: SeenObject, zone: str | None = None) -> Update:
    """Who is there, so many seconds after the epoch; in the `zone` alone if given."""
    return Update(round(seconds * SECOND), objects, zone)


def told(changes: Changes) -> list[tuple[str, str, str, float]]:
    """(event, object, zone, its moment in seconds) of what happened."""
    return [(event.value, visit.object_id, visit.zone, _moment(event, visit)) for event, visit in changes.events]


def _moment(event: Event, visit: Visit) -> float:
    moment = visit.enter if event is Event.ENTERED else visit.exit
    assert moment is not None
    return moment / SECOND


def recorded_updates(shared: Path, store: str = "store-1") -> list[region_pb2.SceneUpdate]:
    """The scene's updates in the recording, as the ingest service would send them."""
    updates = []
    with gzip.open(shared / "recordings" / "store.jsonl.gz", "rt") as lines:
        for line in lines:
            message = json.loads(line)
            if "/regulated/scene/" in message["topic"]:
                updates.append(_update(message["payload"], store))
    return updates


def entries_and_exits(updates: Iterable[region_pb2.SceneUpdate]) -> list[region_pb2.SceneUpdate]:
    """What a scene controller would tell of single zones besides these updates, at their times."""
    found = []
    before: dict[str, set[str]] = {}
    for update in updates:
        inside: dict[str, set[str]] = {}
        for person in update.objects:
            for presence in person.zones:
                inside.setdefault(presence.zone_id, set()).add(person.object_id)
        for zone in sorted(before.keys() | inside.keys()):
            now, then = inside.get(zone, set()), before.get(zone, set())
            if now != then:
                event = region_pb2.SceneUpdate(scene=update.scene, update_time=update.update_time, zone_id=zone)
                event.objects.extend(region_pb2.SceneObject(object_id=gone) for gone in sorted(then - now))
                event.objects.extend(person for person in update.objects if person.object_id in now)
                found.append(event)
        before = inside
    return found


def _update(payload: dict[str, object], store: str) -> region_pb2.SceneUpdate:
    update = region_pb2.SceneUpdate(scene=f"stores/{store}/scenes/{payload['id']}")
    update.update_time.FromDatetime(datetime.fromisoformat(str(payload["timestamp"])))
    objects = payload["objects"]
    assert isinstance(objects, list)
    for item in objects:
        person = update.objects.add(object_id=item["id"])
        person.cameras.extend(f"stores/{store}/cameras/{camera}" for camera in item["visibility"])
        for zone, region in item["regions"].items():
            person.zones.add(zone_id=zone).enter_time.FromDatetime(datetime.fromisoformat(region["entered"]))
    return update
