"""Takes updates in: the rules in memory, each step durable in Redis before it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from history_svc.region.model import Event, Update
from history_svc.region.store import SceneStore
from history_svc.region.tracker import Rules, SceneTracker
from mesh.errors import Aborted

_log = structlog.get_logger(__name__)
_UPDATES = Counter("poi_region_updates_total", "Scene updates by what became of them.", ["result"])
_EVENTS = Counter("poi_region_visit_events_total", "Entries and exits.", ["event"])
_CONFLICTS = Counter("poi_region_conflicts_total", "Steps taken again because another process took one meanwhile.")

_ATTEMPTS = 10
_FORGET_SECONDS = 60.0


@dataclass(slots=True)
class _Scene:
    """What this process remembers of a scene. The tracker is that of `version`, or None when Redis must be asked."""

    tracker: SceneTracker | None = None
    version: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Recorder:
    """All scenes. Several processes may record the same one: the slower of two loads the scene again and repeats."""

    def __init__(self, store: SceneStore, rules: Rules, *, retention: int, max_events: int) -> None:
        """`retention` in ms of wall-clock time after a visit closed; `max_events` a store's log keeps."""
        self._store = store
        self._rules = rules
        self._retention = retention
        self._max_events = max_events
        self._scenes: dict[tuple[str, str], _Scene] = {}

    async def record(self, store: str, scene: str, updates: Sequence[Update]) -> None:
        """Take a scene's updates in; when this returns they are durable.

        Raises:
            Aborted: other processes kept recording the same scene.
            redis.exceptions.RedisError: Redis cannot be reached. Send the updates again: repeats are harmless.
        """
        known = self._scenes.setdefault((store, scene), _Scene())
        async with known.lock:
            for _ in range(_ATTEMPTS):
                tracker = await self._load(known, store, scene)
                applied = 0
                # Until Redis has said yes, memory may be ahead of it: whatever happens in between, ask again.
                known.tracker = None
                for update in updates:
                    applied += tracker.apply(update)
                if applied:
                    changes = tracker.take_changes()
                    version = await self._store.commit(store, scene, known.version, changes)
                    if version is None:
                        _CONFLICTS.inc()
                        continue
                    known.version = version
                    self._count(changes.events)
                known.tracker = tracker
                _UPDATES.labels("applied").inc(applied)
                _UPDATES.labels("stale").inc(len(updates) - applied)
                return
        raise Aborted(f"scene {scene} of store {store} is being recorded elsewhere", reason="SCENE_BUSY")

    async def keep_house(self) -> None:
        """Close the visits of scenes that fell silent, and forget what is too old, for ever."""
        # The first look comes late: after a stop of the whole mesh, the updates that wait at the broker come first.
        await asyncio.sleep(self._rules.silence / 1000)
        loop = asyncio.get_running_loop()
        forget_at = loop.time()
        while True:
            try:
                await self.close_silent()
                if loop.time() >= forget_at:
                    await self.forget()
                    forget_at = loop.time() + _FORGET_SECONDS
            except RedisError as error:
                _log.warning("housekeeping_postponed", error=repr(error))
            await asyncio.sleep(max(self._rules.silence / 4000, 0.05))

    async def close_silent(self) -> None:
        """Close the visits of the scenes whose updates have stopped."""
        for store in await self._store.stores():
            for scene in await self._store.silent_scenes(store, self._rules.silence):
                known = self._scenes.setdefault((store, scene), _Scene())
                async with known.lock:
                    await self._close_silent(known, store, scene)

    async def forget(self) -> None:
        """Drop visits and events past their retention."""
        for store in await self._store.stores():
            while await self._store.forget(store, self._retention, self._max_events):
                pass

    async def _close_silent(self, known: _Scene, store: str, scene: str) -> None:
        known.tracker = None  # another process may have gone on with it
        tracker = await self._load(known, store, scene)
        known.tracker = None
        tracker.fall_silent()
        changes = tracker.take_changes()
        done = await self._store.commit(store, scene, known.version, changes, silence=self._rules.silence)
        if done is not None:
            self._count(changes.events)
            _log.info("scene_silent", store=store, scene=scene, visits_closed=len(changes.events))

    async def _load(self, known: _Scene, store: str, scene: str) -> SceneTracker:
        if known.tracker is not None:
            return known.tracker
        snapshot = await self._store.load(store, scene)
        known.version = snapshot.version
        return SceneTracker(scene, self._rules, snapshot.state)

    def _count(self, events: Sequence[tuple[Event, object]]) -> None:
        for event, _ in events:
            _EVENTS.labels(event.value).inc()
