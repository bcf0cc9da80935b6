"""What a client of StreamAlerts sees: the changes it asked for, and heartbeats whose cursor covers those it did not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import lru_cache
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2

from alert_svc import metrics
from alert_svc.alerts import AlertFilter
from alert_svc.kept import Change
from alert_svc.log import AlertLog
from mesh.tail import slow_client

_CLOCK_SKEW_MS: Final = 60_000
"""How far a server's clock may be from Redis's: a start time is looked for so much earlier, then compared exactly."""


async def responses(
    log: AlertLog,
    store_id: str,
    wanted: AlertFilter,
    *,
    cursor: str = "",
    start_time: Timestamp | None = None,
    slow_seconds: float = 10.0,
) -> AsyncGenerator[alert_pb2.StreamAlertsResponse, None]:
    """The responses of one stream: after `cursor`, else from `start_time` on, else from now on. Never ends by itself.

    A client that takes nothing is only told that it is too slow once it takes something again: until then gRPC's flow
    control holds back whatever we would say. What waits for it meanwhile is one response and at most a page.

    Raises InvalidArgument, OutOfRange (CURSOR_EXPIRED), ResourceExhausted (SLOW_CLIENT, with `cursor`).
    """
    opened_ns, not_before_ns = time.time_ns(), 0
    if start_time is not None:
        not_before_ns = start_time.ToNanoseconds()
        cursor = await log.since(store_id, not_before_ns // 1_000_000 - _CLOCK_SKEW_MS)
    elif not cursor:
        cursor = await log.position(store_id)
    loop = asyncio.get_running_loop()
    with metrics.STREAMS.track_inprogress():
        async with aclosing(log.follow(store_id, cursor, refuse_slow=True)) as changes:
            due = loop.time() + log.heartbeat
            async for change in changes:
                if change is not None:
                    cursor, response = change.cursor, _response(change)
                    changed_ns = response.alert.update_time.ToNanoseconds()
                    if changed_ns >= not_before_ns and wanted(response.alert):
                        if changed_ns >= opened_ns:
                            metrics.LAG.observe(max(0, time.time_ns() - changed_ns) / 1e9)
                    elif loop.time() < due:
                        continue
                    else:
                        response = _heartbeat(cursor)
                else:
                    response = _heartbeat(cursor)
                given = loop.time()
                yield response
                taken = loop.time()
                if taken - given > slow_seconds:
                    raise slow_client(cursor)
                due = taken + log.heartbeat


def _heartbeat(cursor: str) -> alert_pb2.StreamAlertsResponse:
    return alert_pb2.StreamAlertsResponse(event=alert_pb2.ALERT_EVENT_HEARTBEAT, cursor=cursor)


@lru_cache(maxsize=1024)
def _response(change: Change) -> alert_pb2.StreamAlertsResponse:
    """Shared by all streams of the process that send it: not to be changed."""
    return alert_pb2.StreamAlertsResponse(
        event=alert_pb2.AlertEvent.ValueType(change.event),
        alert=alert_pb2.Alert.FromString(change.snapshot),
        cursor=change.cursor,
    )
