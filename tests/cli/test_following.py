"""What ends a stream of alerts, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from poi.v1 import alert_pb2

from clients.cli import alerts
from tests.support import until


class Stub:
    """A server whose first stream breaks off after an event, by a channel that has got a new certificate."""

    def __init__(self) -> None:
        self.cursors: list[str] = []

    async def StreamAlerts(
        self, request: alert_pb2.StreamAlertsRequest
    ) -> AsyncIterator[alert_pb2.StreamAlertsResponse]:
        self.cursors.append(request.cursor)
        yield alert_pb2.StreamAlertsResponse(event=alert_pb2.ALERT_EVENT_RAISED, cursor=str(len(self.cursors)))
        raise asyncio.CancelledError


async def test_a_certificate_that_changes_while_the_server_is_away_ends_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stub = Stub()
    await alerts._follow(stub, alert_pb2.StreamAlertsRequest(), {alert_pb2.ALERT_EVENT_RAISED}, 2, True)
    assert stub.cursors == ["", "1"]
    assert len(capsys.readouterr().out.splitlines()) == 2


async def test_who_does_not_want_to_follow_any_more_does_not() -> None:
    stub = Stub()
    following = asyncio.create_task(
        alerts._follow(stub, alert_pb2.StreamAlertsRequest(), {alert_pb2.ALERT_EVENT_RAISED}, None, True)
    )
    await until(lambda: bool(stub.cursors))
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
