"""Scene messages (`{root}/regulated/scene/{id}`) to scene updates."""

from __future__ import annotations

import re
from typing import Any

from poi.v1 import region_pb2

from ingest_svc import parsing
from ingest_svc.rejections import Problem, Refused
from mesh import names


class SceneParser:
    """Reads the scene messages of one store."""

    def __init__(self, store: str, *, max_objects: int) -> None:
        self._store = store
        self._max_objects = max_objects

    def parse(self, scene_id: str, payload: bytes) -> tuple[region_pb2.SceneUpdate, list[Problem]]:
        """The update and what was refused of it. Raises `Refused` when nothing of it can be used."""
        if not names.is_id(scene_id):
            raise Refused("BAD_ID", "topic", "the scene in the topic is not an id")
        content = parsing.load_object(payload)
        update = region_pb2.SceneUpdate(scene=names.scene(self._store, scene_id))
        update.update_time.FromMilliseconds(parsing.time_ms(content.get("timestamp"), "timestamp"))
        objects = content.get("objects") or []
        if not isinstance(objects, list):
            raise Refused("BAD_OBJECT", "objects", "must be a list")
        if len(objects) > self._max_objects:
            raise Refused("TOO_MANY_OBJECTS", "objects", f"{len(objects)} objects, {self._max_objects} at most")
        problems: list[Problem] = []
        for index, item in enumerate(objects):
            path = f"objects[{index}]"
            if not isinstance(item, dict):
                problems.append(Problem("BAD_OBJECT", path, "must be an object"))
            elif item.get("category", item.get("type", "person")) == "person":
                try:
                    self._object(update, item, path, problems)
                except Refused as refused:
                    problems.append(refused.problem)
        return update, problems

    def _object(self, update: region_pb2.SceneUpdate, item: dict[str, Any], path: str, problems: list[Problem]) -> None:
        target = region_pb2.SceneObject(object_id=parsing.identifier(item.get("id"), f"{path}.id"))
        regions = item.get("regions") or {}
        if not isinstance(regions, dict):
            raise Refused("BAD_OBJECT", f"{path}.regions", "must be an object")
        for zone_id, region in regions.items():
            zone_name = _zone_id(zone_id)
            if not zone_name:
                problems.append(Problem("BAD_ID", f"{path}.regions", "the name of a region has no letter or digit"))
                continue
            zone = target.zones.add(zone_id=zone_name)
            entered = region.get("entered") if isinstance(region, dict) else None
            if entered:
                try:
                    zone.enter_time.FromMilliseconds(parsing.time_ms(entered, f"{path}.regions.{zone_name}.entered"))
                except Refused as refused:  # the zone itself counts: the update's time stands in
                    problems.append(refused.problem)
        visibility = item.get("visibility")
        for camera_id in visibility if isinstance(visibility, list) else []:
            if isinstance(camera_id, str) and names.is_id(camera_id):
                target.cameras.append(names.camera(self._store, camera_id))
        update.objects.append(target)


def _zone_id(name: str) -> str:
    """The region's name as an id: people name regions "Aisle 3"."""
    return name if names.is_id(name) else re.sub(r"[^A-Za-z0-9._:-]+", "-", name).strip("-._:")[:128]
