"""Takes an erased person out of rules of suppression and filters of targets.

A rule or filter without any person is one for all. So nobody's name is put in the place of theirs.
"""

from __future__ import annotations

import secrets
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, delivery_pb2

from alert_svc.delivery.store import TargetStore
from alert_svc.keys import key
from mesh import names
from mesh.redis import Redis


async def in_rules(redis: Redis, store_id: str, poi: str) -> int:
    """How many rules of suppression name the person."""
    kept: Any = await redis.get(key(store_id, "settings"))
    return sum(poi in rule.pois for rule in alert_pb2.AlertSettings.FromString(kept or b"").suppression_rules)


async def out_of_rules(redis: Redis, store_id: str, poi: str) -> None:
    """Takes the person out of them."""
    settings_key = key(store_id, "settings")

    async def change(pipe: Any) -> None:
        settings = alert_pb2.AlertSettings.FromString(await pipe.get(settings_key) or b"")
        for rule in settings.suppression_rules:
            _replace(rule.pois, poi)
        pipe.multi()
        pipe.set(settings_key, settings.SerializeToString())

    if await in_rules(redis, store_id, poi):
        await redis.transaction(change, settings_key)


async def out_of_filter(targets: TargetStore, target: delivery_pb2.Target, poi: str) -> None:
    """Takes the person out of a target's filter. Raises Aborted where somebody else changes the target."""
    after = delivery_pb2.Target()
    after.CopyFrom(target)
    _replace(after.filter.pois, poi)
    after.etag = secrets.token_hex(8)
    moment = Timestamp()
    moment.GetCurrentTime()
    after.update_time.CopyFrom(moment)
    await targets.change(target, after)


def _replace(pois: Any, poi: str) -> None:
    kept = [each for each in pois if each != poi]
    if len(kept) == len(pois):
        return
    del pois[:]
    pois.extend(kept or [names.poi(names.parse_poi(poi)[0], f"erased-{secrets.token_hex(8)}")])
