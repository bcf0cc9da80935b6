"""Resource names (AIP-122): `stores/s1/pois/p7`. One function formats each, one parses it.

Ids are 1 to 128 of letters, digits, `.`, `_`, `:` and `-`, beginning with a letter or digit. Formatting raises
ValueError for an id that is none (our own fault); parsing raises InvalidArgument naming the field (the caller's).
"""

from __future__ import annotations

import re
from typing import Final

from mesh.errors import InvalidArgument

_ID: Final = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
_ID_PATTERN: Final = re.compile(_ID)


class _Kind:
    """One kind of resource: its collections, from the outermost to its own."""

    def __init__(self, *collections: str) -> None:
        self.example = "/".join(f"{name}/{{{_singular(name)}}}" for name in collections)
        self._template = "/".join(f"{name}/%s" for name in collections)
        self._pattern = re.compile("/".join(f"{name}/({_ID})" for name in collections))

    def format(self, *ids: str) -> str:
        for value in ids:
            if not _ID_PATTERN.fullmatch(value):
                raise ValueError(f"not an id of {self.example}: {value!r}")
        return self._template % ids

    def parse(self, name: str, field: str) -> tuple[str, ...]:
        found = self._pattern.fullmatch(name)
        if found is None:
            raise InvalidArgument(violations=[(field, f"must look like {self.example}")], reason="INVALID_NAME")
        return found.groups()


def _singular(collection: str) -> str:
    return collection.removesuffix("ies") + "y" if collection.endswith("ies") else collection.removesuffix("s")


_STORE = _Kind("stores")
_CAMERA = _Kind("stores", "cameras")
_POI = _Kind("stores", "pois")
_REFERENCE = _Kind("stores", "pois", "references")
_APPEARANCE = _Kind("stores", "appearances")
_FRAME = _Kind("stores", "frames")
_ERASURE = _Kind("stores", "erasures")
_ALERT = _Kind("stores", "alerts")
_SCENE = _Kind("stores", "scenes")
_ZONE = _Kind("stores", "scenes", "zones")
_VISIT = _Kind("stores", "visits")
_TARGET = _Kind("stores", "targets")
_WATCHLIST = _Kind("stores", "watchlists")
_MATCH_REPORT = _Kind("stores", "matchReports")
_DELIVERY = _Kind("stores", "targets", "deliveries")
_AUDIT_RECORD = _Kind("stores", "auditRecords")
_APPROVAL = _Kind("stores", "approvals")
_PERSON_ERASURE = _Kind("stores", "personErasures")


def is_id(value: str) -> bool:
    """Whether `value` can stand in a resource name."""
    return _ID_PATTERN.fullmatch(value) is not None


def store(store_id: str) -> str:
    """stores/{store}"""
    return _STORE.format(store_id)


def camera(store_id: str, camera_id: str) -> str:
    """stores/{store}/cameras/{camera}"""
    return _CAMERA.format(store_id, camera_id)


def poi(store_id: str, poi_id: str) -> str:
    """stores/{store}/pois/{poi}"""
    return _POI.format(store_id, poi_id)


def reference(store_id: str, poi_id: str, reference_id: str) -> str:
    """stores/{store}/pois/{poi}/references/{reference}"""
    return _REFERENCE.format(store_id, poi_id, reference_id)


def appearance(store_id: str, appearance_id: str) -> str:
    """stores/{store}/appearances/{appearance}"""
    return _APPEARANCE.format(store_id, appearance_id)


def frame(store_id: str, frame_id: str) -> str:
    """stores/{store}/frames/{frame}"""
    return _FRAME.format(store_id, frame_id)


def erasure(store_id: str, erasure_id: str) -> str:
    """stores/{store}/erasures/{erasure}"""
    return _ERASURE.format(store_id, erasure_id)


def alert(store_id: str, alert_id: str) -> str:
    """stores/{store}/alerts/{alert}"""
    return _ALERT.format(store_id, alert_id)


def scene(store_id: str, scene_id: str) -> str:
    """stores/{store}/scenes/{scene}"""
    return _SCENE.format(store_id, scene_id)


def zone(store_id: str, scene_id: str, zone_id: str) -> str:
    """stores/{store}/scenes/{scene}/zones/{zone}"""
    return _ZONE.format(store_id, scene_id, zone_id)


def visit(store_id: str, visit_id: str) -> str:
    """stores/{store}/visits/{visit}"""
    return _VISIT.format(store_id, visit_id)


def target(store_id: str, target_id: str) -> str:
    """stores/{store}/targets/{target}"""
    return _TARGET.format(store_id, target_id)


def delivery(store_id: str, target_id: str, delivery_id: str) -> str:
    """stores/{store}/targets/{target}/deliveries/{delivery}"""
    return _DELIVERY.format(store_id, target_id, delivery_id)


def watchlist(store_id: str, watchlist_id: str) -> str:
    """stores/{store}/watchlists/{watchlist}"""
    return _WATCHLIST.format(store_id, watchlist_id)


def match_report(store_id: str, report_id: str) -> str:
    """stores/{store}/matchReports/{match_report}"""
    return _MATCH_REPORT.format(store_id, report_id)


def audit_record(store_id: str, sequence: int) -> str:
    """stores/{store}/auditRecords/{sequence}"""
    return _AUDIT_RECORD.format(store_id, str(sequence))


def approval(store_id: str, approval_id: str) -> str:
    """stores/{store}/approvals/{approval}"""
    return _APPROVAL.format(store_id, approval_id)


def person_erasure(store_id: str, erasure_id: str) -> str:
    """stores/{store}/personErasures/{person_erasure}"""
    return _PERSON_ERASURE.format(store_id, erasure_id)


def parse_store(name: str, field: str = "parent") -> tuple[str]:
    """(store,)"""
    (store_id,) = _STORE.parse(name, field)
    return (store_id,)


def parse_camera(name: str, field: str = "name") -> tuple[str, str]:
    """(store, camera)"""
    return _pair(_CAMERA, name, field)


def parse_poi(name: str, field: str = "name") -> tuple[str, str]:
    """(store, poi)"""
    return _pair(_POI, name, field)


def parse_reference(name: str, field: str = "name") -> tuple[str, str, str]:
    """(store, poi, reference)"""
    return _triple(_REFERENCE, name, field)


def parse_appearance(name: str, field: str = "name") -> tuple[str, str]:
    """(store, appearance)"""
    return _pair(_APPEARANCE, name, field)


def parse_frame(name: str, field: str = "name") -> tuple[str, str]:
    """(store, frame)"""
    return _pair(_FRAME, name, field)


def parse_erasure(name: str, field: str = "name") -> tuple[str, str]:
    """(store, erasure)"""
    return _pair(_ERASURE, name, field)


def parse_alert(name: str, field: str = "name") -> tuple[str, str]:
    """(store, alert)"""
    return _pair(_ALERT, name, field)


def parse_scene(name: str, field: str = "name") -> tuple[str, str]:
    """(store, scene)"""
    return _pair(_SCENE, name, field)


def parse_zone(name: str, field: str = "name") -> tuple[str, str, str]:
    """(store, scene, zone)"""
    return _triple(_ZONE, name, field)


def parse_visit(name: str, field: str = "name") -> tuple[str, str]:
    """(store, visit)"""
    return _pair(_VISIT, name, field)


def parse_target(name: str, field: str = "name") -> tuple[str, str]:
    """(store, target)"""
    return _pair(_TARGET, name, field)


def parse_delivery(name: str, field: str = "name") -> tuple[str, str, str]:
    """(store, target, delivery)"""
    return _triple(_DELIVERY, name, field)


def parse_watchlist(name: str, field: str = "name") -> tuple[str, str]:
    """(store, watchlist)"""
    return _pair(_WATCHLIST, name, field)


def parse_match_report(name: str, field: str = "name") -> tuple[str, str]:
    """(store, match_report)"""
    return _pair(_MATCH_REPORT, name, field)


def parse_approval(name: str, field: str = "name") -> tuple[str, str]:
    """(store, approval)"""
    return _pair(_APPROVAL, name, field)


def parse_person_erasure(name: str, field: str = "name") -> tuple[str, str]:
    """(store, person_erasure)"""
    return _pair(_PERSON_ERASURE, name, field)


def _pair(kind: _Kind, name: str, field: str) -> tuple[str, str]:
    first, second = kind.parse(name, field)
    return first, second


def _triple(kind: _Kind, name: str, field: str) -> tuple[str, str, str]:
    first, second, third = kind.parse(name, field)
    return first, second, third
