"""Scenes, visits and their event log in Redis: loading a scene, and taking it a step further."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import orjson

from history_svc.region.keys import LASTING_MS, STORES, Keys
from history_svc.region.model import Event, Visit, decode, encode
from history_svc.region.scripts import COMMIT, FORGET, SILENT
from history_svc.region.tracker import Changes, Presence, SceneState
from mesh.redis import Redis
from mesh.tail import note_key

_VISIT, _ZONE = b"v:", b"z:"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A scene as Redis has it."""

    version: str
    """Changes with each step; empty before the first. Random, so that a Redis that lost its last steps is noticed."""
    state: SceneState
    zones: tuple[str, ...]
    """All that were ever entered, sorted."""


class SceneStore:
    """Raises redis.exceptions.RedisError from every method when Redis cannot be reached."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._commit = redis.register_script(COMMIT)
        self._silent = redis.register_script(SILENT)
        self._forget = redis.register_script(FORGET)

    async def load(self, store: str, scene: str) -> Snapshot:
        """The scene with everything its rules need."""
        keys = Keys(store)
        await self._redis.sadd(STORES, store)  # before the store's first scene is written: housekeeping finds it
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.scene(scene))
            pipe.hgetall(keys.ends(scene))
            fields, ends = await pipe.execute()
        return _snapshot(fields, ends)

    async def occupancy(self, store: str, scene: str) -> Snapshot:
        """The scene as it is for a reader: without the ends."""
        fields: Any = await self._redis.hgetall(Keys(store).scene(scene))
        return _snapshot(fields, {})

    async def commit(
        self, store: str, scene: str, version: str, changes: Changes, *, silence: int | None = None
    ) -> str | None:
        """Make the changes durable, all or none, and tell them to the event log. One round trip.

        `silence`: only if the scene has had no update for so many milliseconds; it then counts as silent.
        Returns the scene's new version; None when it is not at `version` (or not silent) any more: load it again.
        """
        keys = Keys(store)
        following = secrets.token_hex(8)
        done = await self._commit(
            keys=[
                keys.scene(scene),
                keys.ends(scene),
                keys.visits,
                keys.index,
                keys.lasting,
                keys.closed,
                keys.events,
                keys.scenes,
            ],
            args=[
                version,
                following,
                scene,
                "" if changes.time is None else changes.time,
                orjson.dumps(changes.lagging),
                "" if silence is None else silence,
                _payload(changes),
                "" if changes.latest is None else changes.latest,
            ],
        )
        return following if done else None

    async def stores(self) -> list[str]:
        """The stores that have scenes."""
        members: Any = await self._redis.smembers(STORES)
        return sorted(store.decode() for store in members)

    async def silent_scenes(self, store: str, silence: int) -> list[str]:
        """The scenes whose last update came over `silence` ms ago by the wall clock, without those closed for it."""
        scenes: list[bytes] = await self._silent(keys=[Keys(store).scenes], args=[silence])
        return [scene.decode() for scene in scenes]

    async def forget(self, store: str, retention: int, events: int) -> int:
        """Drop visits that were closed more than `retention` ms ago and events of that age, or beyond so many `events`.

        Drops at most 500 visits and returns how many: call again until none is left.
        """
        keys = Keys(store)
        dropped = await self._forget(
            keys=[keys.closed, keys.visits, keys.index, keys.lasting, keys.events, note_key(keys.events)],
            args=[retention, events],
        )
        return int(dropped)


def event_of(fields: dict[bytes, bytes]) -> tuple[Event, Visit]:
    """What an entry of the event log tells."""
    return Event(fields[b"event"].decode()), decode(fields[b"id"].decode(), fields[b"visit"])


def last_sight(visit: Visit, time: int | None, lagging: dict[str, int]) -> int:
    """The last sight of a visit that goes on, whose record is only as new as its last change."""
    return max(visit.seen, lagging.get(visit.id, visit.seen if time is None else time))


def _payload(changes: Changes) -> bytes:
    records = {id: encode(visit) for id, visit in changes.visits.items()}
    return orjson.dumps(
        {
            "visits": [
                [
                    id,
                    str(visit.enter),  # as text: Lua's JSON would round what it writes back
                    records[id].decode(),
                    visit.exit is None or visit.dwell > LASTING_MS,
                    visit.exit is not None,
                ]
                for id, visit in changes.visits.items()
            ],
            "untracked": list(changes.untracked),
            "zones": list({visit.zone for event, visit in changes.events if event is Event.ENTERED}),
            "ends": [[end_key(key), str(end)] for key, end in changes.ends.items()],
            "forgotten_ends": [end_key(key) for key in changes.forgotten_ends],
            "events": [[event.value, visit.id, encode(visit).decode()] for event, visit in changes.events],
        }
    )


def end_key(key: Presence) -> str:
    """Where in a scene's ends that of a person in a zone is."""
    return orjson.dumps(key).decode()


def _snapshot(fields: dict[bytes, bytes], ends: dict[bytes, bytes]) -> Snapshot:
    time = int(fields[b"time"]) if fields.get(b"time") else None
    latest = int(fields[b"latest"]) if fields.get(b"latest") else time
    lagging: dict[str, int] = orjson.loads(fields.get(b"lagging") or b"{}")
    visits = [decode(key[2:].decode(), value) for key, value in fields.items() if key.startswith(_VISIT)]
    for visit in visits:
        visit.seen = lagging.get(visit.id, visit.seen if time is None else time)
    state = SceneState(
        time=time,
        latest=latest,
        # Redis does not keep the order; the rules' order of exits is that of the entries.
        visits=tuple(sorted(visits, key=lambda visit: (visit.enter, visit.id))),
        ends={_presence(key): int(end) for key, end in ends.items()},
    )
    zones = sorted(key[2:].decode() for key in fields if key.startswith(_ZONE))
    return Snapshot(fields.get(b"version", b"").decode(), state, tuple(zones))


def _presence(key: bytes) -> Presence:
    object_id, zone = orjson.loads(key)
    return object_id, zone
