"""Alerts in Redis: a record each, an index by time, and the log of what happened to them.

Of a store: `poi:{store}:alerts` (hash: id -> Alert), `...:index` (sorted set of create time and id, for listing) and
`...:log` (stream: event and the whole Alert after it, for following). A record and its log entry are written by one
Lua script, so that there is never one without the other, whichever server dies when. The scripts bear being run twice,
which the client does when an answer is lost. Redis 6.2 or later.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2

from alert_svc.alerts import Action
from mesh import names, tail
from mesh.errors import NotFound
from mesh.redis import Redis
from mesh.tail import StreamTail

_CHUNK: Final = 256
_MAX_SCANNED: Final = 5_000
"""Records that one page of a list looks at: a filter that few pass gives a short page, not a long wait."""
_DAY_SECONDS: Final = 86_400

# A record that is there already and is byte for byte what we bring (its etag is random) was written by this very call
# before its answer was lost. Expired records go 256 at a time: the script must not block other clients.
_RAISE: Final = (
    tail.TRIM
    + """
local records, index, log, note = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local created = {}
for i = 3, #ARGV, 3 do
  local id, member, snapshot = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('HSETNX', records, id, snapshot) == 1 then
    redis.call('ZADD', index, 0, member)
    redis.call('XADD', log, '*', 'event', '1', 'alert', snapshot)
    created[#created + 1] = 1
  else
    created[#created + 1] = redis.call('HGET', records, id) == snapshot and 1 or 0
  end
end
trim(log, note, ARGV[1])
local expired = redis.call('ZRANGEBYLEX', index, '-', '(' .. ARGV[2], 'LIMIT', 0, 256)
for _, member in ipairs(expired) do
  redis.call('HDEL', records, string.sub(member, 17))
  redis.call('ZREM', index, member)
end
return created
"""
)
_CHANGE: Final = """
local current = redis.call('HGET', KEYS[1], ARGV[1])
if current == ARGV[3] then return 1 end
if current ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('XADD', KEYS[2], '*', 'event', ARGV[4], 'alert', ARGV[3])
return 1
"""


class Change(NamedTuple):
    """An entry of the log: where it stands, what happened, and the Alert after it as bytes."""

    cursor: str
    event: int
    snapshot: bytes


class AlertLog:
    """The alerts of all stores in one Redis."""

    def __init__(self, redis: Redis, *, retention_days: float, ring: int = 1024, heartbeat: float = 5.0) -> None:
        """`ring` and `heartbeat` (seconds) are those of `mesh.tail.StreamTail`."""
        self._redis = redis
        self._retention_ns = round(retention_days * _DAY_SECONDS * 1e9)
        self._ring, self.heartbeat = ring, heartbeat
        self._raise = redis.register_script(_RAISE)
        self._change = redis.register_script(_CHANGE)
        self._tails: WeakValueDictionary[str, StreamTail] = WeakValueDictionary()

    async def raise_all(self, store_id: str, alerts: Sequence[alert_pb2.Alert]) -> list[bool]:
        """Writes those that are new, durably, in one round trip; says for each whether it was."""
        records, index, log = _keys(store_id)
        oldest = time.time_ns() - self._retention_ns
        arguments: list[str | bytes] = [f"{max(0, oldest // 1_000_000)}-0", _time_key(oldest)]
        for alert in alerts:
            alert_id = names.parse_alert(alert.name)[1]
            arguments += [alert_id, _time_key(_ns(alert.create_time)) + alert_id, alert.SerializeToString()]
        created = await self._raise(keys=[records, index, log, tail.note_key(log)], args=arguments)
        return [bool(flag) for flag in created]

    async def get(self, name: str) -> alert_pb2.Alert:
        """The alert as it is. Raises InvalidArgument, NotFound."""
        return alert_pb2.Alert.FromString(await self._snapshot(*names.parse_alert(name)))

    async def act(self, name: str, action: Action) -> alert_pb2.Alert:
        """Does something about an alert and logs it, unless it has been done already; the alert afterwards.

        Raises InvalidArgument, NotFound, FailedPrecondition (ALERT_RESOLVED), Aborted (ETAG_MISMATCH).
        """
        store_id, alert_id = names.parse_alert(name)
        records, _, log = _keys(store_id)
        while True:  # whoever comes between moves the alert on, which happens twice at most
            before = await self._snapshot(store_id, alert_id)
            alert = alert_pb2.Alert.FromString(before)
            changed = action.apply(alert, now())
            if changed is None:
                return alert
            arguments: list[str | bytes | int] = [alert_id, before, changed.SerializeToString(), int(action.event)]
            if await self._change(keys=[records, log], args=arguments):
                return changed

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
        records, index, _ = _keys(store_id)
        lowest = f"[{_time_key(_ns(start))}" if start else "-"
        highest = f"({before}" if before else f"({_time_key(_ns(end))}" if end else "+"
        found: list[alert_pb2.Alert] = []
        last_found, scanned = before, 0
        while scanned < _MAX_SCANNED:
            raw: Any = await self._redis.zrevrangebylex(index, highest, lowest, start=0, num=_CHUNK)
            members = [member.decode("ascii") for member in raw]
            snapshots: Any = await self._redis.hmget(records, [member[16:] for member in members]) if members else []
            for member, snapshot in zip(members, snapshots, strict=True):
                if snapshot is None or not wanted(alert := alert_pb2.Alert.FromString(snapshot)):
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

    async def follow(self, store_id: str, after: str) -> AsyncGenerator[Change | None, None]:
        """Each change after the cursor once, in order, then live; None when a heartbeat is due, and at first.

        Raises InvalidArgument, OutOfRange (CURSOR_EXPIRED).
        """
        entries = self._tail(store_id).entries(after)
        try:
            async for entry in entries:
                if entry is None:
                    yield None
                else:
                    cursor, fields = entry
                    yield Change(cursor, int(fields[b"event"]), fields[b"alert"])
        finally:
            await entries.aclose()

    async def _snapshot(self, store_id: str, alert_id: str) -> bytes:
        snapshot: Any = await self._redis.hget(_keys(store_id)[0], alert_id)
        if snapshot is None:
            raise NotFound(names.alert(store_id, alert_id))
        assert isinstance(snapshot, bytes)
        return snapshot

    def _tail(self, store_id: str) -> StreamTail:
        # Kept as long as somebody follows it: clients choose the store, so there is no end to them.
        following = self._tails.get(store_id)
        if following is None:
            following = StreamTail(self._redis, _keys(store_id)[2], ring=self._ring, heartbeat=self.heartbeat)
            self._tails[store_id] = following
        return following


def now() -> Timestamp:
    """The time of this server, in whole microseconds as the index has it."""
    time_stamp = Timestamp()
    time_stamp.FromMicroseconds(time.time_ns() // 1000)
    return time_stamp


def _keys(store_id: str) -> tuple[str, str, str]:
    records = f"poi:{{{store_id}}}:alerts"
    return records, f"{records}:index", f"{records}:log"


def _ns(time_stamp: Timestamp) -> int:
    return time_stamp.seconds * 10**9 + time_stamp.nanos


def _time_key(nanoseconds: int) -> str:
    """16 hex digits that sort like times: the first microsecond that is not before."""
    return f"{max(0, -(-nanoseconds // 1000)):016x}"
