"""Reports in Redis: a record each, and an index by time.

Of a store: `poi:{store}:feedback`, a hash, id -> record (see `reports.packed`); `:index`, a sorted set of report time
and id, for listing. Both are trimmed with the alerts. Redis 6.2 or later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from alert_svc.feedback import metrics, reports, scripts
from alert_svc.feedback.reports import Report
from alert_svc.kept import Kept
from alert_svc.times import ns, time_key
from mesh.redis import Redis

_CHUNK: Final = 256
_PAGE: Final = 1000
_MAX_SCANNED: Final = 5_000
"""Records that one page looks at: a filter that few pass gives a short page, not a long wait."""


class ReportStore:
    """The reports of all stores in one Redis."""

    def __init__(self, redis: Redis, kept: Kept) -> None:
        self._redis, self._kept = redis, kept
        self._report = redis.register_script(scripts.REPORT)
        self._expire = redis.register_script(scripts.EXPIRE)
        self._counted: set[str] = set()

    async def record(self, store_id: str, pair: str) -> bytes | None:
        """The record of the pair's report."""
        record: Any = await self._awaited(self._redis.hget(reports.key(store_id), pair))
        return record if isinstance(record, bytes) else None

    async def write(
        self, store_id: str, pair: str, report: Report, *, before: bytes | None, alerts_key: str, alert: bytes | None
    ) -> bool:
        """Writes a report that changes no alert, if its record still is `before` and the pair's alert `alert`."""
        keys = [alerts_key, reports.key(store_id), reports.index_key(store_id)]
        arguments: list[str | bytes] = [
            pair,
            alert or b"",
            before or b"",
            self._kept.seal_report(store_id, pair, report),
        ]
        code = int(await self._report(keys=keys, args=arguments))
        if code == 1:
            metrics.count(report)
        return bool(code)

    async def page(
        self,
        store_id: str,
        wanted: Callable[[Report], bool],
        *,
        start: Timestamp | None = None,
        end: Timestamp | None = None,
        before: str = "",
        limit: int,
    ) -> tuple[list[Report], str]:
        """At most `limit` reports that are wanted and were made in [start, end), latest first, and where to go on.

        The second value is the `before` of the next page, "" after the last one.
        """
        records, index = reports.key(store_id), reports.index_key(store_id)
        lowest = f"[{time_key(ns(start))}" if start else "-"
        highest = f"({before}" if before else f"({time_key(ns(end))}" if end else "+"
        found: list[Report] = []
        last_found, scanned = before, 0
        while scanned < _MAX_SCANNED:
            raw: list[bytes] = await self._awaited(
                self._redis.zrevrangebylex(index, highest, lowest, start=0, num=_CHUNK)
            )
            kept: list[bytes | None] = (
                await self._awaited(self._redis.hmget(records, [member[16:].decode("ascii") for member in raw]))
                if raw
                else []
            )
            for member, record in zip(raw, kept, strict=True):
                # One that was made again at this moment has another place now.
                if record is None or record[:16] != member[:16]:
                    continue
                report = self._kept.report(store_id, member[16:].decode("ascii"), record)
                if not wanted(report):
                    continue
                if len(found) == limit:
                    return found, last_found
                found.append(report)
                last_found = member.decode("ascii")
            if len(raw) < _CHUNK:
                return found, ""
            scanned += _CHUNK
            highest = f"({raw[-1].decode('ascii')}"
        return found, highest[1:]

    async def visit(
        self,
        store_id: str,
        see: Callable[[Report], object],
        *,
        start: Timestamp | None = None,
        end: Timestamp | None = None,
    ) -> None:
        """Shows every report that was made in [start, end), latest first: 1,000 at a time, about 20 us each."""
        before, more = "", True
        while more:
            found, before = await self.page(store_id, lambda _: True, start=start, end=end, before=before, limit=_PAGE)
            for report in found:
                see(report)
            more = bool(before)

    async def sweep(self, store_id: str, oldest: Timestamp) -> None:
        """Drops what is older; the first time, lets the counters know what there is."""
        keys = [reports.key(store_id), reports.index_key(store_id)]
        while int(await self._expire(keys=keys, args=[time_key(ns(oldest))])) == _CHUNK:
            pass
        if store_id not in self._counted:
            await self.visit(store_id, lambda report: metrics.expect(report.poi, report.match, report.camera))
            self._counted.add(store_id)

    @staticmethod
    async def _awaited(answer: Any) -> Any:
        """What a command answers: redis-py types its commands as synchronous or not."""
        return await answer
