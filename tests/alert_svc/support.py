"""Clients of the alert service, for its tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from poi.v1 import alert_pb2, alert_pb2_grpc, common_pb2, match_pb2

from mesh import channels
from mesh.errors import MeshError, from_rpc

RAISED, ACKNOWLEDGED, RESOLVED, HEARTBEAT = (
    alert_pb2.ALERT_EVENT_RAISED,
    alert_pb2.ALERT_EVENT_ACKNOWLEDGED,
    alert_pb2.ALERT_EVENT_RESOLVED,
    alert_pb2.ALERT_EVENT_HEARTBEAT,
)


@asynccontextmanager
async def connected(target: str) -> AsyncIterator[alert_pb2_grpc.AlertServiceAsyncStub]:
    channel = channels.connect(target)
    try:
        yield alert_pb2_grpc.AlertServiceStub(channel)
    finally:
        await channel.close()


def candidate(
    store: str,
    appearance: str = "a1",
    poi: str = "p1",
    *,
    camera: str = "c1",
    severity: common_pb2.Severity.ValueType = common_pb2.SEVERITY_HIGH,
    similarity: float = 0.75,
) -> alert_pb2.AlertCandidate:
    made = alert_pb2.AlertCandidate(
        match=match_pb2.Match(
            poi=f"{store}/pois/{poi}", display_name="Jo", severity=severity, similarity=similarity, threshold=0.5
        ),
        appearance=f"{store}/appearances/{appearance}",
        camera=f"{store}/cameras/{camera}",
        detection_id="d" * 32,
        person_box=common_pb2.BoundingBox(x=1, y=2, width=30, height=80),
    )
    made.detect_time.FromNanoseconds(time.time_ns())
    return made


async def raise_alerts(
    client: alert_pb2_grpc.AlertServiceAsyncStub, store: str, *candidates: alert_pb2.AlertCandidate
) -> alert_pb2.RaiseAlertsResponse:
    return await client.RaiseAlerts(alert_pb2.RaiseAlertsRequest(parent=store, candidates=candidates))


async def raise_numbers(client: alert_pb2_grpc.AlertServiceAsyncStub, store: str, numbers: range) -> list[str]:
    """Raises an alert for each number, 50 a call; their names."""
    made: list[str] = []
    for start in numbers[::50]:
        batch = [candidate(store, f"a{number}") for number in range(start, min(start + 50, numbers.stop))]
        made += [raised.alert for raised in (await raise_alerts(client, store, *batch)).alerts]
    return made


async def next_event(call: Any) -> alert_pb2.StreamAlertsResponse:
    """The next response that is no heartbeat."""
    while (response := await call.read()).event == HEARTBEAT:
        pass
    assert isinstance(response, alert_pb2.StreamAlertsResponse)
    return response


class Follower:
    """A client that sees the stream of alerts through: whenever it is cut off it resumes after its last cursor."""

    def __init__(self, store: str, *targets: str, cursor: str = "") -> None:
        """`targets` are tried in turn. Without a cursor it starts live."""
        self.responses: list[alert_pb2.StreamAlertsResponse] = []
        self.cursor = cursor
        self.interruptions: list[MeshError] = []
        self._moved = asyncio.Condition()
        self._store, self._targets = store, targets

    @property
    def alerts(self) -> list[str]:
        return [response.alert.name for response in self.responses]

    async def until_live(self) -> None:
        """Returns when the stream has begun."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.cursor)

    async def until_seen(self, count: int) -> None:
        """Returns when it has seen `count` events in all."""
        async with self._moved:
            await self._moved.wait_for(lambda: len(self.responses) >= count)

    async def run(self, count: int, **filters: Any) -> None:
        """Returns when it has seen `count` events in all."""
        turn = 0
        while len(self.responses) < count:
            async with connected(self._targets[turn % len(self._targets)]) as client:
                request = alert_pb2.StreamAlertsRequest(parent=self._store, **filters)
                if self.cursor:
                    request.cursor = self.cursor
                try:
                    async for response in client.StreamAlerts(request):
                        self.cursor = response.cursor
                        if response.event != HEARTBEAT:
                            self.responses.append(response)
                        async with self._moved:
                            self._moved.notify_all()
                        if len(self.responses) >= count:
                            break
                except grpc.aio.AioRpcError as error:
                    self.interruptions.append(from_rpc(error))
                    if not self.interruptions[-1].retryable:
                        raise
            turn += 1


async def fails(call: Awaitable[Any]) -> MeshError:
    """What the call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return from_rpc(failure.value)
