"""HIGH alerts that nobody looks at: they escalate once, whatever is killed and however many servers there are."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from poi.v1 import alert_pb2, common_pb2

from mesh.local import Redis, Service
from tests.alert_svc.support import Follower, candidate, connected, raise_alerts

ESCALATED = alert_pb2.ALERT_EVENT_ESCALATED
UNACKNOWLEDGED = alert_pb2.ESCALATION_REASON_UNACKNOWLEDGED


async def test_only_high_alerts_that_nobody_looked_at_escalate(redis_server: Redis, tmp_path: Path, store: str) -> None:
    env = {"POI_REDIS_URL": redis_server.url, "POI_SWEEP_SECONDS": "0.05"}
    with Service("alert_svc", tmp_path, env) as server:
        async with connected(server.target) as client:
            # An hour at first: nothing is due before all is in place.
            follower = Follower(store, server.target)
            reading = asyncio.create_task(follower.run(6))
            await follower.until_live()
            levels = (common_pb2.SEVERITY_LOW, common_pb2.SEVERITY_HIGH, common_pb2.SEVERITY_HIGH)
            raised = await raise_alerts(
                client, store, *(candidate(store, f"a{number}", severity=each) for number, each in enumerate(levels))
            )
            low, waiting, seen = (each.alert for each in raised.alerts)
            await client.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=seen, actor="ann"))
            await client.UpdateAlertSettings(
                alert_pb2.UpdateAlertSettingsRequest(
                    alert_settings=alert_pb2.AlertSettings(
                        name=f"{store}/alertSettings", escalation_delay=Duration(nanos=1_000_000)
                    )
                )
            )
            await follower.until_seen(5)
            await asyncio.sleep(0.3)  # six sweeps, in which it must not escalate again
            last = (await raise_alerts(client, store, candidate(store, "z", severity=levels[0]))).alerts[0].alert
            await reading
            escalated = await client.GetAlert(alert_pb2.GetAlertRequest(name=waiting))
    assert follower.alerts[3:] == [seen, waiting, last]
    assert follower.responses[4].event == ESCALATED
    assert [each.reason for each in escalated.escalations] == [UNACKNOWLEDGED]
    assert escalated.state == alert_pb2.ALERT_STATE_NEW
    assert low in follower.alerts[:3]


@pytest.mark.timeout(300)  # five starts of a server, also on a machine with other work
async def test_what_waits_escalates_once_on_two_servers_of_which_one_is_killed(tmp_path: Path, store: str) -> None:
    count = 300
    with ExitStack() as stack:
        redis = stack.enter_context(Redis(tmp_path))
        env = {
            "POI_REDIS_URL": redis.url,
            "POI_SWEEP_SECONDS": "0.02",
            "POI_ALERT_ESCALATION_DELAY_SECONDS": "1.5",
        }
        one, two, reader = (
            stack.enter_context(Service("alert_svc", tmp_path, env, name=name)) for name in ("one", "two", "reader")
        )
        follower = Follower(store, reader.target)
        reading = asyncio.create_task(follower.run(2 * count))
        await follower.until_live()
        async with connected(one.target) as client:
            for start in range(0, count, 100):
                batch = [candidate(store, f"a{number}") for number in range(start, start + 100)]
                names = [each.alert for each in (await raise_alerts(client, store, *batch)).alerts]
                assert len(names) == 100
        await follower.until_seen(count + 20)  # they are at it
        for server in (one, two):
            await asyncio.to_thread(server.restart)
        await asyncio.to_thread(redis.kill)
        await asyncio.to_thread(redis.start)
        await reading
        # After several sweeps more there is nothing more.
        async with connected(reader.target) as client:
            await asyncio.sleep(0.2)
            marker = (
                (await raise_alerts(client, store, candidate(store, "last", severity=common_pb2.SEVERITY_LOW)))
                .alerts[0]
                .alert
            )
        await follower.run(2 * count + 1)
    assert follower.alerts[-1] == marker
    escalated = [response.alert.name for response in follower.responses if response.event == ESCALATED]
    raised = [response.alert.name for response in follower.responses if response.event == alert_pb2.ALERT_EVENT_RAISED]
    assert len(escalated) == count
    assert sorted(escalated) == sorted(raised[:-1])
