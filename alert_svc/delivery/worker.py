"""The worker of a target: follows the log from the target's cursor and hands each event to its sender, in order.

An event is sent, then written down as delivered together with the cursor. Who is killed between the two has the event
sent again by whoever comes next, under the same delivery name: at least once, and a receiver can tell.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, delivery_pb2
from redis.exceptions import RedisError

from alert_svc.delivery import lease, metrics
from alert_svc.delivery.pace import Limits, Pace
from alert_svc.delivery.sender import Failed, Message, Sender
from alert_svc.delivery.store import LeaseLost, TargetStore, delivery_id, just_before, owner_key
from alert_svc.delivery.targets import Filter
from alert_svc.kept import Change
from alert_svc.keys import log_key
from alert_svc.log import AlertLog
from mesh import names
from mesh.errors import NotFound, OutOfRange

_log = structlog.get_logger(__name__)

_WRITE_EVERY: Final = 256
"""Events that are passed over before the cursor is written: without a delivery there is no other write."""
_REDIS_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What all workers of a server share."""

    store: TargetStore
    log: AlertLog
    limits: Limits
    lease_seconds: float


class Worker:
    """Delivers to one target while it is the one that does."""

    def __init__(self, target: delivery_pb2.Target, sender: Sender, parts: Parts) -> None:
        """The target as it is kept, secrets included."""
        self._target, self._sender, self._parts = target, sender, parts
        self._store, self._limits = parts.store, parts.limits
        self._name = target.name
        self._store_id, self._target_id = names.parse_target(target.name)
        self._kind = target.WhichOneof("kind") or ""
        self._wanted = Filter(target.filter)
        self._pace = Pace(parts.limits)
        self._turn = asyncio.Lock()
        self._replays = asyncio.Event()

    def look(self) -> None:
        """There may be something to replay."""
        self._replays.set()

    def hurry(self) -> None:
        """The target works again: no need to wait any longer."""
        self._pace.hurry()

    async def run(self) -> None:
        """Delivers until cancelled, or until the target is not what it was."""
        try:
            while True:
                try:
                    if not await self._is_current():
                        return
                    async with lease.held(self._store.redis, owner_key(self._name), self._parts.lease_seconds) as token:
                        # Deleted, or changed, while we waited: its next worker begins where it has to.
                        if not await self._is_current():
                            return
                        with metrics.OWNED.track_inprogress():
                            await self._work(token)
                except* LeaseLost:
                    _log.warning("delivery_lease_lost", target=self._name)
                except* (RedisError, OSError) as errors:
                    _log.warning("delivery_interrupted", target=self._name, error=repr(errors.exceptions[0]))
                await asyncio.sleep(_REDIS_SECONDS)
        finally:
            await self._sender.close()

    async def _is_current(self) -> bool:
        try:
            return (await self._store.get(self._name)).etag == self._target.etag
        except NotFound:
            return False

    async def _work(self, token: str) -> None:
        self._pace = Pace(self._limits)
        self._replays.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._replay(token))
            group.create_task(self._follow(token))

    async def _follow(self, token: str) -> None:
        position = (await self._store.progress(self._name)).cursor
        while True:
            try:
                await self._follow_from(position, token)
            except OutOfRange:
                _log.error("delivery_log_expired", target=self._name, cursor=position)
                metrics.MISSED.labels(self._kind).inc()
                position = await self._parts.log.since(self._store_id, 0)

    async def _follow_from(self, position: str, token: str) -> None:
        unwritten, resuming = 0, True
        async with aclosing(self._parts.log.follow(self._store_id, position)) as changes:
            async for change in changes:
                if change is not None:
                    position = change.cursor
                    alert = alert_pb2.Alert.FromString(change.snapshot)
                    if self._wanted(change.event, alert):
                        async with self._turn:
                            known = await self._known(change) if resuming else None
                            await self._deliver(change, alert, token, known, advance=True)
                        unwritten, resuming = 0, False
                        continue
                    unwritten += 1
                if unwritten and (change is None or unwritten >= _WRITE_EVERY):
                    await self._store.settle(self._name, token, position)
                    unwritten = 0

    async def _replay(self, token: str) -> None:
        while True:
            self._replays.clear()
            while cursor := await self._store.next_replay(self._name):
                async with self._turn:
                    await self._replay_one(cursor, token)
            await self._replays.wait()

    async def _replay_one(self, cursor: str, token: str) -> None:
        known = await self._store.record(names.delivery(self._store_id, self._target_id, delivery_id(cursor)))
        if known is None:
            return
        try:
            async with aclosing(self._parts.log.follow(self._store_id, just_before(cursor))) as changes:
                async for change in changes:
                    if change is not None and change.cursor == cursor:
                        alert = alert_pb2.Alert.FromString(change.snapshot)
                        await self._deliver(change, alert, token, known, advance=False)
                        return
                    if change is not None:
                        break
        except OutOfRange:
            pass
        known.state, known.last_error = delivery_pb2.DELIVERY_STATE_DEAD, "the log does not hold the alert any more"
        await self._store.settle(self._name, token, "", known, failures=self._pace.failures)

    async def _known(self, change: Change) -> delivery_pb2.Delivery | None:
        return await self._store.record(names.delivery(self._store_id, self._target_id, delivery_id(change.cursor)))

    async def _deliver(
        self,
        change: Change,
        alert: alert_pb2.Alert,
        token: str,
        known: delivery_pb2.Delivery | None,
        *,
        advance: bool,
    ) -> None:
        """Sends until that goes well or the event is given up, and writes down how it went each time.

        `known`: the delivery as an earlier worker left it. `advance`: the cursor moves; not so for a replay.
        """
        name = names.delivery(self._store_id, self._target_id, delivery_id(change.cursor))
        event = alert_pb2.AlertEvent.ValueType(change.event)
        delivery = known or delivery_pb2.Delivery(name=name, alert=alert.name, event=event)
        happened_ms = int(change.cursor.partition("-")[0])
        delivery.event_time.FromMilliseconds(happened_ms)
        content = delivery_pb2.DeliveryMessage(delivery=name, event=event, alert=alert, cursor=change.cursor)
        message = Message.of(content)
        while True:
            now = await self._as_it_is(change)
            if now is None:  # erased, or older than what is kept, while it waited: nobody is told of it
                await self._store.forget(self._name, token, change.cursor if advance else "", delivery.name)
                return
            if now.snapshot != change.snapshot:
                change = now
                content.alert.ParseFromString(change.snapshot)
                message = Message.of(content)
            wait = await self._try(message, delivery, happened_ms, replayed=not advance)
            pending = delivery.state == delivery_pb2.DELIVERY_STATE_PENDING
            cursor = change.cursor if advance and not pending else ""
            await self._store.settle(self._name, token, cursor, delivery, failures=self._pace.failures)
            if not pending:
                return
            await self._pace.wait(wait)

    async def _try(
        self, message: Message, delivery: delivery_pb2.Delivery, happened_ms: int, *, replayed: bool
    ) -> float:
        """One attempt, noted in `delivery`; seconds to wait for the next one."""
        too_old = time.time() - happened_ms / 1000 > self._limits.give_up and not replayed
        delivery.ClearField("next_attempt_time")
        if too_old and self._pace.failures:
            # The event before this one has just shown that the target is down: no attempt for each that is too old.
            delivery.last_error = delivery.last_error or "the target was down for too long"
            self._give_up(delivery)
            return 0.0
        failure = await self._attempt(message)
        delivery.attempt_count += 1
        delivery.last_attempt_time.CopyFrom(_now())
        if failure is None:
            delivery.state, delivery.last_error = delivery_pb2.DELIVERY_STATE_DELIVERED, ""
            self._pace.succeeded()
            metrics.LAG.labels(self._kind).observe(max(0.0, time.time() - happened_ms / 1000))
            return 0.0
        delivery.last_error = str(failure)
        if failure.refused:  # it works, and does not want this one
            self._pace.succeeded()
            self._give_up(delivery)
            return 0.0
        wait = self._pace.failed(failure.retry_after)
        limit = self._limits.breaker_failures if replayed else self._limits.max_attempts
        if too_old or (limit and delivery.attempt_count >= limit):
            self._give_up(delivery)
        else:
            delivery.state = delivery_pb2.DELIVERY_STATE_PENDING
            delivery.next_attempt_time.CopyFrom(_now(wait))
        if self._pace.failures == self._limits.breaker_failures:
            _log.warning("delivery_target_broken", target=self._name, error=delivery.last_error)
        return wait

    async def _attempt(self, message: Message) -> Failed | None:
        failure: Failed | None = None
        with metrics.SECONDS.labels(self._kind).time():
            try:
                async with asyncio.timeout(self._limits.timeout):
                    await self._sender.send(message)
            except Failed as error:
                failure = error
            except TimeoutError:
                failure = Failed(f"no answer within {self._limits.timeout:g} s")
            except Exception as error:
                # A fault of ours with this target: it must neither end deliveries to it nor go unseen.
                _log.exception("delivery_attempt_broke", target=self._name)
                failure = Failed(f"the server failed: {type(error).__name__}")
        metrics.ATTEMPTS.labels(self._kind, "failed" if failure else "well").inc()
        return failure

    async def _as_it_is(self, change: Change) -> Change | None:
        """An entry of the log as it is by now; None where it is gone."""
        store_id = self._store_id
        found: Any = await self._store.redis.xrange(log_key(store_id), min=change.cursor, max=change.cursor)
        return self._parts.log.kept.change(store_id, change.cursor, found[0][1]) if found else None

    def _give_up(self, delivery: delivery_pb2.Delivery) -> None:
        delivery.state = delivery_pb2.DELIVERY_STATE_DEAD
        metrics.DEAD.labels(self._kind).inc()
        _log.warning("delivery_given_up", delivery=delivery.name, error=delivery.last_error)


def _now(later: float = 0.0) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(time.time_ns() // 1000 + round(later * 1e6))
    return stamp
