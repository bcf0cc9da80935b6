"""Makes the pictures of a store's alerts, on whichever server holds the lease.

An alert is looked after a moment after it was raised, and again at growing intervals until its appearance has a frame.
That costs no slot meanwhile, so a slow camera holds up nobody else. Each step may be done twice, by this server or the
next one: the picture of the same frame is the same frame in history, and an alert takes its pictures once.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import structlog
from poi.v1 import alert_pb2, poi_pb2
from redis.exceptions import RedisError

from alert_svc.delivery import lease
from alert_svc.delivery.store import LeaseLost
from alert_svc.evidence import metrics, picture
from alert_svc.evidence.sources import Sources, choose, reference_subject, subject
from alert_svc.evidence.store import WaitingAlerts
from alert_svc.log import AlertLog
from mesh import names
from mesh.errors import MeshError, NotFound

_log = structlog.get_logger(__name__)

_FIRST_SECONDS: Final = 0.3
"""A camera takes about so long to answer."""
_GATHER_SECONDS: Final = 0.2
"""What was raised meanwhile is taken over together: none of it is looked after sooner than that anyway."""
_SETTLE_SECONDS: Final = 3.0
"""So long the frame kept for the match is waited for before another one of the appearance will do."""
_MAX_SECONDS: Final = 5.0
_AWAY_SECONDS: Final = 2.0
_SLOTS: Final = 4
_PACE_SECONDS: Final = 0.04
"""At most 25 looks a second, however many alerts there are: alerts and detections go first."""
_FRUITLESS_SECONDS: Final = 0.1
"""... and 10 while they find no frame: cameras that do not answer must not cost more than those that do."""
_TRIES: Final = 3
_REDIS_SECONDS: Final = 1.0


class _GivenUp(Exception):
    """There will be no picture; the text says why, without names or data."""


class PictureMaker:
    """See the module. Run `run` in the background, and `close` at the end."""

    def __init__(
        self,
        waiting: WaitingAlerts,
        log: AlertLog,
        sources: Sources,
        store_id: str,
        *,
        lease_seconds: float,
        wait: float,
    ) -> None:
        """`wait`: seconds after which an appearance without a frame will have none."""
        self._waiting, self._alerts, self._sources, self._store_id = waiting, log, sources, store_id
        self._lease_seconds, self._wait = lease_seconds, wait
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._changed = asyncio.Event()
        self._busy: set[str] = set()
        self._fruitful = True
        """Whether the last look was not in vain."""
        self._since = 0.0
        """Since when (epoch seconds) history and match have answered, as far as we know."""

    async def run(self) -> None:
        """Makes pictures until cancelled."""
        while True:
            try:
                async with lease.held(self._waiting.redis, self._waiting.owner, self._lease_seconds) as token:
                    self._since = time.time()
                    self._busy.clear()
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._follow(token))
                        group.create_task(self._look_after())
            except* LeaseLost:
                _log.warning("evidence_lease_lost")
            except* (RedisError, OSError) as errors:
                _log.warning("evidence_interrupted", error=repr(errors.exceptions[0]))
            await asyncio.sleep(_REDIS_SECONDS)

    async def close(self) -> None:
        """Waits for the picture that is being drawn."""
        await asyncio.to_thread(self._drawing.shutdown)

    async def _follow(self, token: str) -> None:
        cursor = await self._waiting.cursor()
        while True:
            after = await self._waiting.take(token, cursor, _FIRST_SECONDS - _GATHER_SECONDS / 2)
            if after != cursor:
                self._changed.set()
                await asyncio.sleep(_GATHER_SECONDS)
            cursor = after

    async def _look_after(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                pause: float | None = None
                for alert_id, due in await self._waiting.next(2 * _SLOTS):
                    if alert_id in self._busy:
                        continue
                    if due > 0 or len(self._busy) >= _SLOTS:
                        pause = max(due, _PACE_SECONDS) if due > 0 else None
                        break
                    self._busy.add(alert_id)
                    group.create_task(self._see_to(alert_id))
                    await asyncio.sleep(_PACE_SECONDS if self._fruitful else _FRUITLESS_SECONDS)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed.wait()

    async def _see_to(self, alert_id: str) -> None:
        name, again = names.alert(self._store_id, alert_id), None
        try:
            again = await self._look(name, alert_id)
        except MeshError as error:
            if error.retryable:
                self._since = time.time()
                metrics.FAILED.inc()
                _log.warning("evidence_waits", alert=name, reason=error.reason)
                again = _AWAY_SECONDS
            else:
                self._give_up(name, error.reason)
        except _GivenUp as error:
            self._give_up(name, str(error))
        except (RedisError, OSError):
            raise
        except Exception:
            # A fault of ours with this alert: it must neither end the pictures of others nor go unseen.
            _log.exception("evidence_broke", alert=name)
            self._give_up(name, "BROKEN")
        self._fruitful = again is None
        if again is None:
            await self._waiting.done(alert_id)
        else:
            await self._waiting.wait(alert_id, again)
        self._busy.discard(alert_id)
        self._changed.set()

    async def _look(self, name: str, alert_id: str) -> float | None:
        """Makes the picture where there is a frame; seconds until the next look, None where none is needed.

        Raises MeshError, _GivenUp.
        """
        try:
            alert = await self._alerts.get(name)
        except NotFound:
            return None
        if alert.HasField("evidence"):
            return None
        frames = await self._sources.frames(alert.appearance)
        # After an outage frames come late: ingest held them back.
        patience = time.time() - max(alert.create_time.ToNanoseconds() / 1e9, self._since)
        frame = choose(frames, alert.detect_time, settled=patience >= _SETTLE_SECONDS)
        if frame is None:
            if patience >= self._wait:
                raise _GivenUp("NO_FRAME")
            return min(max(patience / 2, _FIRST_SECONDS), _MAX_SECONDS)
        reference = await self._reference(alert)
        shown = subject(alert, frame, await self._sources.image(frame.name))
        if await self._waiting.begin(alert_id) > _TRIES:
            raise _GivenUp("SERVER_DIED_OF_IT")
        # Whoever erases a person looks for notes of what was begun after they removed the alert: one of us two sees the
        # other, and no picture is handed to history after it was looked through.
        try:
            await self._alerts.get(name)
        except NotFound:
            return None
        other = reference_subject(reference) if reference is not None else None
        loop = asyncio.get_running_loop()
        try:
            drawn = await loop.run_in_executor(self._drawing, picture.compose, shown, other)
        except picture.Undecodable as error:
            raise _GivenUp(f"UNDECODABLE: {error}") from None
        kept = await self._sources.keep(frame, drawn, alert.appearance)
        evidence = alert_pb2.AlertEvidence(
            frame=frame.name, picture=kept, reference=reference.name if reference is not None else ""
        )
        with suppress(NotFound):  # the alert is so old that it went meanwhile; its appearance goes as well
            if await self._alerts.show(name, evidence):
                metrics.MADE.inc()
                metrics.SECONDS.observe(max(0.0, time.time() - alert.create_time.ToNanoseconds() / 1e9))
        return None

    async def _reference(self, alert: alert_pb2.Alert) -> poi_pb2.ReferenceImage | None:
        try:
            return await self._sources.reference(alert.match.reference)
        except MeshError as error:
            if error.retryable:
                raise
            return None

    def _give_up(self, name: str, reason: str) -> None:
        metrics.GIVEN_UP.inc()
        _log.warning("evidence_given_up", alert=name, reason=reason)
