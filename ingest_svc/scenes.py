"""What a scene controller says of its scenes, to scene updates.

Scene messages (`{root}/regulated/scene/{scene}`) say who is where, several times a second. Region events
(`{root}/event/region/{scene}/{region}/{type}`, the types `count` and `objects`) say who entered or left one zone, when
it happens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from poi.v1 import region_pb2

from ingest_svc import parsing
from ingest_svc.boxes import Box, CameraBoxes
from ingest_svc.rejections import Problem, Refused
from mesh import names

_MAX_REMEMBERED = 10_000
_MAX_PLACES = 200
"""Regions, and cameras, of one person: each region is a visit, and each visit names its cameras."""


class SceneParser:
    """Reads the scene messages and region events of one store."""

    def __init__(self, store: str, *, max_objects: int) -> None:
        self._store = store
        self._max_objects = max_objects
        self._keys: dict[tuple[str, str], str] = {}
        self.boxes = CameraBoxes()
        """Feed it the cameras' detections: people whose boxes (`camera_bounds`) agree with theirs are joined."""

    def parse(self, scene_id: str, payload: bytes) -> tuple[region_pb2.SceneUpdate, list[Problem]]:
        """The update and what was refused of it. Raises `Refused` when nothing of it can be used."""
        content, update = self._begin(scene_id, payload)
        problems: list[Problem] = []
        bounds: dict[str, tuple[object, str]] = {}
        for path, item in self._people(content, ["objects"], problems):
            try:
                person = self._person(item, path)
                for name, entered in _regions(item, path):
                    _add_zone(person, name, entered, path, problems)
            except Refused as refused:
                problems.append(refused.problem)
            else:
                update.objects.append(person)
                bounds[person.object_id] = item.get("camera_bounds"), path
        self._join(update, bounds, problems)
        return update, problems

    def parse_event(
        self, scene_id: str, region_id: str, payload: bytes
    ) -> tuple[region_pb2.SceneUpdate, list[Problem]]:
        """The update of one zone and what was refused of it; it has no objects where the event is not about people.

        Raises `Refused` when nothing of it can be used.
        """
        content, update = self._begin(scene_id, payload)
        problems: list[Problem] = []
        left: dict[str, tuple[str, dict[str, Any]]] = {}
        inside: dict[str, tuple[str, dict[str, Any]]] = {}
        for path, item in self._people(content, ["exited", "objects", "entered"], problems):
            try:
                object_id = parsing.identifier(item.get("id"), f"{path}.id")
            except Refused as refused:
                problems.append(refused.problem)
                continue
            if path.startswith("exited"):
                left[object_id] = path, item
            elif object_id not in left:
                inside.setdefault(object_id, (path, item))  # `objects` tells more than `entered`
        key = self._key(scene_id, region_id, content, [item for _, item in inside.values()])
        update.zone_id = _zone_id(key)
        if not update.zone_id:
            raise Refused("BAD_ID", "topic", "the region in the topic has no letter or digit")
        for path, item in left.values():
            update.objects.append(self._person(item, path))
        for path, item in inside.values():
            person = self._person(item, path)
            try:
                entered = dict(_regions(item, path)).get(key)
            except Refused as refused:  # the zone itself counts: the event's time stands in
                problems.append(refused.problem)
                entered = None
            _add_zone(person, key, entered, path, problems)
            update.objects.append(person)
        self._join(update, {id: (item.get("camera_bounds"), path) for id, (path, item) in inside.items()}, problems)
        return update, problems

    def _begin(self, scene_id: str, payload: bytes) -> tuple[dict[str, Any], region_pb2.SceneUpdate]:
        if not names.is_id(scene_id):
            raise Refused("BAD_ID", "topic", "the scene in the topic is not an id")
        content = parsing.load_object(payload)
        update = region_pb2.SceneUpdate(scene=names.scene(self._store, scene_id))
        update.update_time.FromMilliseconds(parsing.time_ms(content.get("timestamp"), "timestamp"))
        return content, update

    def _people(
        self, content: dict[str, Any], fields: list[str], problems: list[Problem]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(path, object) of the persons in these lists of a message."""
        for field in fields:
            objects = content.get(field) or []
            if not isinstance(objects, list):
                raise Refused("BAD_OBJECT", field, "must be a list")
            if len(objects) > self._max_objects:
                raise Refused("TOO_MANY_OBJECTS", field, f"{len(objects)} objects, {self._max_objects} at most")
            for index, item in enumerate(objects):
                path = f"{field}[{index}]"
                if isinstance(item, dict) and isinstance(item.get("object"), dict):  # an exit: {"object", "dwell"}
                    path, item = f"{path}.object", item["object"]
                if not isinstance(item, dict):
                    problems.append(Problem("BAD_OBJECT", path, "must be an object"))
                elif item.get("category", item.get("type", "person")) == "person":
                    if (problem := _too_many_places(item, path)) is not None:
                        problems.append(problem)
                    else:
                        yield path, item

    def _person(self, item: dict[str, Any], path: str) -> region_pb2.SceneObject:
        person = region_pb2.SceneObject(object_id=parsing.identifier(item.get("id"), f"{path}.id"))
        visibility = item.get("visibility")
        for camera_id in visibility if isinstance(visibility, list) else []:
            if isinstance(camera_id, str) and names.is_id(camera_id):
                person.cameras.append(names.camera(self._store, camera_id))
        return person

    def _join(
        self, update: region_pb2.SceneUpdate, bounds: dict[str, tuple[object, str]], problems: list[Problem]
    ) -> None:
        """Add the tracks of the people of whom there are boxes; `bounds` has (`camera_bounds`, path) by object id."""
        cameras: dict[str, dict[str, Box]] = {}
        for object_id, (boxes, path) in bounds.items():
            for camera_id, value in boxes.items() if isinstance(boxes, dict) else ():
                try:
                    box = parsing.box(value, f"{path}.camera_bounds")
                except Refused as refused:
                    problems.append(refused.problem)
                    continue
                if box is not None and names.is_id(camera_id):
                    cameras.setdefault(camera_id, {})[object_id] = box
        time_ms = update.update_time.ToMilliseconds()
        joined = [(camera_id, self.boxes.join(camera_id, time_ms, people)) for camera_id, people in cameras.items()]
        if any(found for _, found in joined):
            for person in update.objects:
                person.tracks.extend(
                    f"cam:{camera_id}:{found[person.object_id]}"
                    for camera_id, found in joined
                    if person.object_id in found
                )

    def _key(self, scene_id: str, region_id: str, content: dict[str, Any], inside: list[dict[str, Any]]) -> str:
        """What scene messages call the region: the id in the topic, or its name with some scene controllers.

        The people inside say it; when the last one has left, what others said before counts.
        """
        named = {name for item in inside if isinstance(item.get("regions"), dict) for name in item["regions"]}
        for key in (region_id, content.get("region_id"), content.get("region_name")):
            if isinstance(key, str) and key in named:
                if len(self._keys) >= _MAX_REMEMBERED:  # topics come from the street: memory stays bounded
                    self._keys.clear()
                self._keys[scene_id, region_id] = key
                return key
        return self._keys.get((scene_id, region_id), region_id)


def _too_many_places(item: dict[str, Any], path: str) -> Problem | None:
    for field in ("visibility", "regions", "camera_bounds"):
        places = item.get(field)
        if isinstance(places, list | dict) and len(places) > _MAX_PLACES:
            return Problem("TOO_MANY_PLACES", f"{path}.{field}", f"{len(places)} items, {_MAX_PLACES} at most")
    return None


def _regions(item: dict[str, Any], path: str) -> list[tuple[str, object]]:
    """(region, when the person entered it)"""
    regions = item.get("regions") or {}
    if not isinstance(regions, dict):
        raise Refused("BAD_OBJECT", f"{path}.regions", "must be an object")
    return [(name, region.get("entered") if isinstance(region, dict) else None) for name, region in regions.items()]


def _add_zone(person: region_pb2.SceneObject, region: str, entered: object, path: str, problems: list[Problem]) -> None:
    zone_name = _zone_id(region)
    if not zone_name:
        problems.append(Problem("BAD_ID", f"{path}.regions", "the name of a region has no letter or digit"))
        return
    zone = person.zones.add(zone_id=zone_name)
    if entered:
        try:
            zone.enter_time.FromMilliseconds(parsing.time_ms(entered, f"{path}.regions.{zone_name}.entered"))
        except Refused as refused:  # the zone itself counts: the update's time stands in
            problems.append(refused.problem)


def _zone_id(name: str) -> str:
    """The region's name as an id: people name regions "Aisle 3"."""
    return name if names.is_id(name) else re.sub(r"[^A-Za-z0-9._:-]+", "-", name).strip("-._:")[:128]
