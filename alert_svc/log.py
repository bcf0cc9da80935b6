"""Alerts in Redis: a record each, an index by time, and the log of what happened to them.

**The log** is a Redis stream that others read as well, in consumer groups or with `AlertLog.follow`. Each entry has the
fields `event` (the number of an AlertEvent, in decimal) and `alert` (the whole serialized Alert as it is after the
event, sealed where there is a vault). `alert_svc.kept` reads one. Fields may be added, never changed; readers skip
events that they do not know. Its id is the cursor of StreamAlerts. It is trimmed by age, with a note (`mesh.tail`).

A record and its log entry, and the report of a match that is confirmed or rejected (`alert_svc.feedback`), are written
by one Lua script (`alert_svc.scripts`), so that there is never one without the other, whichever server dies when.
`alert_svc.keys` says what is where. Redis 6.2 or later.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2

from alert_svc import escalation, scripts
from alert_svc.alerts import alert_id, touched
from alert_svc.erasing import tombstones
from alert_svc.feedback import metrics, reports
from alert_svc.feedback.store import ReportStore
from alert_svc.kept import Change, Kept, read_entry
from alert_svc.keys import STORES, erased_key, key, log_key, window_key
from alert_svc.policy import Policies, Policy
from alert_svc.times import now, ns, stamp, time_key
from alert_svc.triage import CONFIRMED, FALSE_MATCH, OPEN, STEPS, Action
from mesh import names, tail
from mesh.errors import NotFound
from mesh.redis import Redis
from mesh.tail import StreamTail
from mesh.vault import PLAIN, Box

_CHUNK: Final = 256
_MAX_SCANNED: Final = 5_000
"""Records that one page of a list looks at: a filter that few pass gives a short page, not a long wait."""
_DAY_SECONDS: Final = 86_400
_ADDED: Final = {
    scripts.EXISTS: (False, False),
    scripts.ADDED_BEFORE: (True, False),
    scripts.REPEAT: (True, False),
    scripts.RUNNER_UP: (False, True),
}
"""What `Raised` says of a candidate that an alert took in: suppressed, runner_up."""


class Raised(NamedTuple):
    """What became of a candidate."""

    alert: str
    """Name of the alert: its own, or the earlier one that took it in."""
    created: bool
    suppressed: bool
    runner_up: bool = False
    """That alert is another person's, which names this one as runner-up."""
    rejected: bool = False
    """Somebody said that it is not this person; the name is "" where there was no alert before."""
    escalates_at: float = 0.0
    """From what similarity on a match of the person escalates the alert; 0 where that is not known."""


class AlertLog:
    """The alerts of all stores in one Redis."""

    def __init__(
        self,
        redis: Redis,
        *,
        retention_days: float,
        ring: int = 16_384,
        heartbeat: float = 5.0,
        policy: Policy = Policy(),  # noqa: B008  (it is frozen)
        box: Box = PLAIN,
    ) -> None:
        """`ring` and `heartbeat` (seconds) are those of `mesh.tail.StreamTail`.

        `policy` holds for stores that have none of their own. `box` seals what is kept.
        """
        self._redis, self.kept = redis, Kept(box)
        self.policies = Policies(redis, policy)
        self.reports = ReportStore(redis, self.kept)
        self._retention_ns = round(retention_days * _DAY_SECONDS * 1e9)
        self._ring, self.heartbeat = ring, heartbeat
        self._raise = redis.register_script(scripts.RAISE)
        self._change = redis.register_script(scripts.CHANGE)
        self._expire = redis.register_script(scripts.EXPIRE)
        self._tails: WeakValueDictionary[str, StreamTail] = WeakValueDictionary()
        self._known: set[str] = set()

    async def raise_all(self, store_id: str, alerts: Sequence[alert_pb2.Alert]) -> list[Raised]:
        """Writes what is new, durably, and says what became of each alert. Usually three round trips, whatever many."""
        await self._make_known(store_id)
        await tombstones.leave_out_runners_up(self._redis, store_id, alerts)
        policy = await self.policies.of(store_id)
        outcome: dict[int, Raised] = {}
        dismissed: set[str] = set()  # alerts that were rejected: they hold nobody else back
        while pending := [index for index in range(len(alerts)) if index not in outcome]:
            answers = await self._place(store_id, [alerts[index] for index in pending], policy, dismissed)
            # What one alert takes in is one change of it, however many appearances a burst brings.
            holders: dict[bytes, list[tuple[int, int]]] = {}
            for index, (code, snapshot) in zip(pending, answers, strict=True):
                if code == scripts.CREATED:
                    at = alerts[index].match.similarity + policy.margin
                    outcome[index] = Raised(alerts[index].name, created=True, suppressed=False, escalates_at=at)
                    metrics.expect(alerts[index].match.poi, alerts[index].match, alerts[index].camera)
                elif code == scripts.REJECTED:
                    name = alerts[index].name if snapshot else ""
                    outcome[index] = Raised(name, created=False, suppressed=False, rejected=True)
                else:
                    holders.setdefault(snapshot, []).append((index, code))
            for snapshot, takes in holders.items():
                if others := [index for index, code in takes if code == scripts.RUNNER_UP]:
                    holder = self.kept.alert(store_id, snapshot)
                    if holder.state == FALSE_MATCH:
                        dismissed |= {alert_id(holder.match.poi, alerts[index].appearance) for index in others}
                        takes = [(index, code) for index, code in takes if code != scripts.RUNNER_UP]
                held = await self._absorb(store_id, snapshot, [(alerts[index], code) for index, code in takes], policy)
                if held is None:
                    continue
                for index, code in takes:
                    # Who was taken in has an alert of their own once that one is rejected, which is to be tried.
                    at = held.match.similarity + policy.margin if code == scripts.EXISTS else 0.0
                    outcome[index] = Raised(held.name, False, *_ADDED[code], escalates_at=at)
        return [outcome[index] for index in range(len(alerts))]

    async def get(self, name: str) -> alert_pb2.Alert:
        """The alert as it is. Raises InvalidArgument, NotFound."""
        store_id, own = names.parse_alert(name)
        return self.kept.alert(store_id, await self._snapshot(store_id, own), name)

    async def act(self, name: str, action: Action) -> alert_pb2.Alert:
        """Does something about an alert and logs it, unless it has been done already; the alert afterwards.

        Raises InvalidArgument, NotFound, FailedPrecondition (ALERT_RESOLVED, ILLEGAL_TRANSITION), Aborted
        (ETAG_MISMATCH).
        """
        store_id, own = names.parse_alert(name)
        while True:  # who comes between moves the alert on, or adds to it, which has an end
            before = await self._snapshot(store_id, own)
            changed = action.apply(alert := self.kept.alert(store_id, before, name), now())
            if changed is None:
                return alert
            if await self._write(before, changed, action.event, due="remove", report=reports.of_alert(changed)):
                return changed

    async def show(self, name: str, evidence: alert_pb2.AlertEvidence) -> bool:
        """Gives an alert its pictures and logs it; False where it has some already. Raises NotFound."""
        store_id, own = names.parse_alert(name)
        while True:
            before = await self._snapshot(store_id, own)
            alert = self.kept.alert(store_id, before, name)
            if alert.HasField("evidence"):
                return False
            changed = touched(alert, now())
            changed.evidence.CopyFrom(evidence)
            changed.evidence.create_time.CopyFrom(changed.update_time)
            if await self._write(before, changed, alert_pb2.ALERT_EVENT_EVIDENCE, due="keep"):
                return True

    async def report(self, said: reports.Report) -> reports.Report:
        """Keeps what was said of a pair, and confirms or rejects the pair's alert where it may become so.

        The report as it is kept; where it says what was said before, that one. Raises nothing of its own.
        """
        store_id, pair = names.parse_match_report(said.name)
        await self._make_known(store_id)
        while True:  # who comes between moves the alert on, raises it, or says something else, which has an end
            record = await self.reports.record(store_id, pair)
            before: bytes | None = await _awaited(self._redis.hget(key(store_id), pair))
            earlier = self.kept.report(store_id, pair, record) if record else None
            alert = self.kept.alert(store_id, before) if before else None
            report = reports.completed(said, alert, earlier)
            changed = reports.consequence(alert, report)
            if before and changed:
                event = STEPS[changed.state].event
                written = await self._write(before, changed, event, due="remove", report=report)
            elif earlier and reports.is_repeat(report, earlier):
                return earlier
            else:
                written = await self.reports.write(
                    store_id, pair, report, before=record, alerts_key=key(store_id), alert=before
                )
            if written:
                return report

    async def sweep(self) -> None:
        """Expires what is old and escalates what waits too long, of all stores. Any number of servers may do it."""
        self._known |= {raw.decode() for raw in await _awaited(self._redis.smembers(STORES))}
        for store_id in sorted(self._known):
            while await self._expire_some(store_id) == _CHUNK:
                pass
            while await self._escalate_some(store_id) == _CHUNK:
                pass
            await self.reports.sweep(store_id, stamp(time.time_ns() - self._retention_ns))

    async def list(
        self,
        store_id: str,
        wanted: Callable[[alert_pb2.Alert], bool],
        *,
        start: Timestamp | None = None,
        end: Timestamp | None = None,
        before: str = "",
        limit: int,
    ) -> tuple[list[alert_pb2.Alert], str]:
        """At most `limit` alerts that are wanted and were raised in [start, end), newest first, and where to go on.

        The second value is the `before` of the next page, "" after the last one.
        """
        records, index = key(store_id), key(store_id, "index")
        lowest = f"[{time_key(ns(start))}" if start else "-"
        highest = f"({before}" if before else f"({time_key(ns(end))}" if end else "+"
        found: list[alert_pb2.Alert] = []
        last_found, scanned = before, 0
        while scanned < _MAX_SCANNED:
            raw: Any = await self._redis.zrevrangebylex(index, highest, lowest, start=0, num=_CHUNK)
            members = [member.decode("ascii") for member in raw]
            snapshots: Any = await self._redis.hmget(records, [member[16:] for member in members]) if members else []
            for member, snapshot in zip(members, snapshots, strict=True):
                alert = None if snapshot is None else self.kept.readable(store_id, snapshot)
                if alert is None or not wanted(alert):
                    continue
                if len(found) == limit:
                    return found, last_found
                found.append(alert)
                last_found = member
            if len(members) < _CHUNK:
                return found, ""
            scanned += _CHUNK
            highest = f"({members[-1]}"
        return found, highest[1:]

    async def position(self, store_id: str) -> str:
        """The cursor of the log's end."""
        return await self._tail(store_id).position()

    async def since(self, store_id: str, milliseconds: int) -> str:
        """The cursor from which all kept changes since that time (epoch ms, Redis's clock) follow."""
        return await self._tail(store_id).since(milliseconds)

    async def follow(
        self, store_id: str, after: str, *, refuse_slow: bool = False
    ) -> AsyncGenerator[Change | None, None]:
        """Each change after the cursor once, in order, then live; None when a heartbeat is due, and at first.

        A follower may be as slow as it likes: with `refuse_slow`, one that falls behind the ring is told instead.
        Raises InvalidArgument, OutOfRange (CURSOR_EXPIRED), ResourceExhausted (SLOW_CLIENT, with `refuse_slow` only).
        """
        entries = self._tail(store_id).entries(after, refuse_slow=refuse_slow)
        try:
            async for entry in entries:
                # What is for `mesh.tail`, and what cannot be opened.
                if entry is None or (tail.REWRITTEN not in entry[1] and b"alert" in entry[1]):
                    yield None if entry is None else read_entry(*entry)
        finally:
            await entries.aclose()

    async def rewrite_alert(self, before: bytes, changed: alert_pb2.Alert) -> bool:
        """Replaces an alert that says something of an erased person; False where it is not as `before` any more."""
        return await self._write(before, touched(changed, now()), alert_pb2.ALERT_EVENT_ERASED, due="keep")

    async def _make_known(self, store_id: str) -> None:
        """Before the first alert of a store, so that there is none that the sweep does not find."""
        if store_id not in self._known:
            await _awaited(self._redis.sadd(STORES, store_id))
            self._known.add(store_id)

    async def _place(
        self, store_id: str, alerts: Sequence[alert_pb2.Alert], policy: Policy, dismissed: set[str]
    ) -> Sequence[tuple[int, bytes]]:
        keys = [key(store_id), key(store_id, "index"), log_key(store_id), key(store_id, "due")]
        arguments: list[str | bytes | int] = [policy.kept_ms]
        for alert in alerts:
            own = names.parse_alert(alert.name)[1]
            created = ns(alert.create_time)
            camera = names.parse_camera(alert.camera)[1]
            suppression = policy.suppression(alert)
            # In this very appearance: the id of an alert depends only on the person and the appearance.
            rivals = [alert_id(match.poi, alert.appearance) for match in alert.runners_up]
            rivals = [rival for rival in rivals if rival not in dismissed]
            keys += [window_key(store_id, alert), *(key(store_id, f"added:{each}") for each in (own, *rivals))]
            arguments += [
                own,
                time_key(created) + own,
                self.kept.seal(store_id, alert),
                ns(alert.detect_time) // 1_000_000,
                created // 1_000_000 if escalation.waits(alert) else "",
                camera,
                suppression.window_ms,
                camera if suppression.per_camera else "",
                len(rivals),
                tombstones.member(alert.match.reference),
                *rivals,
            ]
        keys += [reports.key(store_id), erased_key(store_id)]
        answers: Sequence[tuple[int, bytes]] = await self._raise(keys=keys, args=arguments)
        return answers

    async def _absorb(
        self, store_id: str, before: bytes, takes: Sequence[tuple[alert_pb2.Alert, int]], policy: Policy
    ) -> alert_pb2.Alert | None:
        """Lets an alert take in candidates, each with its code; as it is then, None where it moved on meanwhile."""
        alert = self.kept.alert(store_id, before)
        # One appearance may be in a request twice.
        repeats = {each.name: each for each, code in takes if code == scripts.REPEAT}
        if repeats and alert.state not in OPEN:
            return None  # it was closed at this moment, and its window with it
        again = [each for each, code in takes if code in (scripts.EXISTS, scripts.ADDED_BEFORE)]
        others = [each for each, code in takes if code == scripts.RUNNER_UP]
        changed = escalation.absorbed(alert, again, list(repeats.values()), others, policy.margin, now())
        if changed is None:
            return alert
        starts_waiting = escalation.waits(changed) and not escalation.waits(alert)
        event = escalation.event_of(alert, changed)
        due = ns(changed.update_time) // 1_000_000 if starts_waiting else "keep"
        return changed if await self._write(before, changed, event, due=due, takes=repeats) else None

    async def _write(
        self,
        before: bytes,
        alert: alert_pb2.Alert,
        event: alert_pb2.AlertEvent.ValueType,
        *,
        due: str | int,
        takes: Mapping[str, object] = {},
        report: reports.Report | None = None,
    ) -> bool:
        """Writes the alert and its log entry if it still is as `before`; `takes` are names of appearances' alerts.

        `report` is what was said of its match with that: there is never one without the other.
        """
        store_id, own = names.parse_alert(alert.name)
        keys = [key(store_id), log_key(store_id), key(store_id, "due")]
        keys += [window_key(store_id, alert), reports.key(store_id), reports.index_key(store_id)]
        keys += [key(store_id, f"added:{names.parse_alert(name)[1]}") for name in takes]
        camera = names.parse_camera(alert.camera)[1]
        closes = "" if alert.state in OPEN else camera
        retention_ms = max(1, self._retention_ns // 1_000_000)
        after = self.kept.seal(store_id, alert)
        arguments: list[str | bytes | int] = [own, before, after, int(event), closes, due, retention_ms]
        arguments.append(self.kept.seal_report(store_id, own, report) if report else b"")
        # Rejected by mistake: it takes in repeats again.
        opens = alert.state == CONFIRMED and self.kept.alert(store_id, before).state not in OPEN
        kept_ms = (await self.policies.of(store_id)).kept_ms if opens else 0
        arguments += [camera if kept_ms else "", ns(alert.detect_time) // 1_000_000, kept_ms]
        code = int(await self._change(keys=keys, args=arguments))
        if report and code == 1:
            metrics.count(report)
        return bool(code)

    async def _expire_some(self, store_id: str) -> int:
        log = log_key(store_id)
        oldest = time.time_ns() - self._retention_ns
        keys = [key(store_id), key(store_id, "index"), log, tail.note_key(log), key(store_id, "due")]
        arguments = [f"{max(0, oldest // 1_000_000)}-0", time_key(oldest)]
        return int(await self._expire(keys=keys, args=arguments))

    async def _escalate_some(self, store_id: str) -> int:
        """Escalates what has waited too long; every server may try, and the first one to write does it."""
        delay_ms = (await self.policies.of(store_id)).delay_ms
        if not delay_ms:
            return 0
        due, latest = key(store_id, "due"), time.time_ns() // 1_000_000 - delay_ms
        ids: list[bytes] = await _awaited(self._redis.zrangebyscore(due, 0, latest, start=0, num=_CHUNK))
        snapshots: list[bytes | None] = await _awaited(self._redis.hmget(key(store_id), ids)) if ids else []
        for waiting, before in zip(ids, snapshots, strict=True):
            alert = self.kept.readable(store_id, before) if before else None
            changed = alert and escalation.overdue(alert, now())
            if before and changed:
                await self._write(before, changed, alert_pb2.ALERT_EVENT_ESCALATED, due="remove")
            else:
                await _awaited(self._redis.zrem(due, waiting))
        return len(ids)

    async def _snapshot(self, store_id: str, alert_id: str) -> bytes:
        snapshot: Any = await self._redis.hget(key(store_id), alert_id)
        if snapshot is None:
            raise NotFound(names.alert(store_id, alert_id))
        assert isinstance(snapshot, bytes)
        return snapshot

    def _tail(self, store_id: str) -> StreamTail:
        # Kept as long as somebody follows it: clients choose the store, so there is no end to them.
        opened = partial(self.kept.entry, store_id)
        made = StreamTail(self._redis, log_key(store_id), ring=self._ring, heartbeat=self.heartbeat, opened=opened)
        return self._tails.setdefault(store_id, made)


async def _awaited(answer: Any) -> Any:
    """What a command answers: redis-py types its commands as synchronous or not."""
    return await answer
