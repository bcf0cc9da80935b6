"""StreamAlerts, on running servers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2, common_pb2

from mesh import errors, redis, tail
from mesh.local import Redis, Service
from tests.alert_svc.support import (
    ACKNOWLEDGED,
    HEARTBEAT,
    RAISED,
    RESOLVED,
    Follower,
    candidate,
    connected,
    fails,
    next_event,
    raise_alerts,
    raise_numbers,
)

if TYPE_CHECKING:
    from poi.v1.alert_pb2_grpc import AlertServiceAsyncStub


def stream(client: AlertServiceAsyncStub, store: str, **fields: Any) -> Any:
    return client.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=store, **fields))


async def test_a_stream_begins_with_a_heartbeat_that_can_be_resumed_from(
    client: AlertServiceAsyncStub, store: str
) -> None:
    call = stream(client, store)
    first = await call.read()
    call.cancel()
    assert (first.event, first.HasField("alert")) == (HEARTBEAT, False)

    names = await raise_numbers(client, store, range(3))  # while nobody listens

    resumed = stream(client, store, cursor=first.cursor)
    assert [(await next_event(resumed)).alert.name for _ in range(3)] == names
    resumed.cancel()


async def test_a_stream_tells_what_happens_to_an_alert_and_no_repeats(
    client: AlertServiceAsyncStub, store: str
) -> None:
    call = stream(client, store)
    await call.read()
    name = (await raise_alerts(client, store, candidate(store))).alerts[0].alert
    await raise_alerts(client, store, candidate(store))
    for _ in range(2):
        await client.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=name, actor="ann"))
    for _ in range(2):
        await client.ResolveAlert(alert_pb2.ResolveAlertRequest(name=name, actor="bob"))
    other = (await raise_alerts(client, store, candidate(store, "a2"))).alerts[0].alert

    events = [await next_event(call) for _ in range(4)]
    call.cancel()

    assert [event.event for event in events] == [RAISED, ACKNOWLEDGED, RESOLVED, RAISED]
    assert [event.alert.name for event in events] == [name, name, name, other]
    assert [event.alert.state for event in events] == [1, 2, 3, 1]  # each as it was after the event
    assert events[2].alert == await client.GetAlert(alert_pb2.GetAlertRequest(name=name))


async def test_a_stream_is_live_only_unless_asked_for_more(client: AlertServiceAsyncStub, store: str) -> None:
    await raise_numbers(client, store, range(5))
    call = stream(client, store)
    await call.read()
    name = (await raise_alerts(client, store, candidate(store, "new"))).alerts[0].alert
    assert (await next_event(call)).alert.name == name
    call.cancel()


async def test_a_start_time_gives_that_alert_and_later_ones(client: AlertServiceAsyncStub, store: str) -> None:
    names = []
    for number in range(4):
        names += await raise_numbers(client, store, range(number, number + 1))
    start = (await client.GetAlert(alert_pb2.GetAlertRequest(name=names[2]))).create_time

    call = stream(client, store, start_time=start)
    assert [(await next_event(call)).alert.name for _ in range(2)] == names[2:]
    call.cancel()
    call = stream(client, store, start_time=Timestamp(seconds=1))
    assert [(await next_event(call)).alert.name for _ in range(4)] == names
    call.cancel()


@pytest.mark.parametrize("selects", ["min_severity", "cameras", "pois"])
async def test_a_stream_is_filtered_and_its_heartbeats_pass_what_is_left_out(
    client: AlertServiceAsyncStub, store: str, selects: str
) -> None:
    filters: dict[str, Any] = {
        "min_severity": common_pb2.SEVERITY_HIGH,
        "cameras": [f"{store}/cameras/c1"],
        "pois": [f"{store}/pois/p1"],
    }
    call = stream(client, store, **{selects: filters[selects]})
    start = (await call.read()).cursor
    others = [candidate(store, f"x{n}", "p2", camera="c2", severity=common_pb2.SEVERITY_LOW) for n in range(20)]
    await raise_alerts(client, store, *others)
    # The log has moved on although nothing of it was for us, and a quiet time (0.2 s) brings that cursor.
    async with asyncio.timeout(60):
        while (heartbeat := await call.read()).cursor == start:
            pass
    assert heartbeat.event == HEARTBEAT
    name = (await raise_alerts(client, store, candidate(store))).alerts[0].alert
    assert (await next_event(call)).alert.name == name
    call.cancel()


async def test_heartbeats_pass_what_is_left_out_while_the_log_is_busy(
    client: AlertServiceAsyncStub, store: str
) -> None:
    call = stream(client, store, pois=[f"{store}/pois/other"])
    start = (await call.read()).cursor

    async def keep_busy() -> None:
        for number in range(10**6):
            await raise_alerts(client, store, candidate(store, f"a{number}"))
            await asyncio.sleep(0.02)  # more often than the heartbeat (0.2 s)

    busy = asyncio.create_task(keep_busy())
    async with asyncio.timeout(60):
        cursors = {start}
        while len(cursors) < 4:
            cursors.add((await call.read()).cursor)
    busy.cancel()
    call.cancel()


async def test_a_cursor_that_is_none_or_expired_is_refused(
    client: AlertServiceAsyncStub, store: str, redis_client: redis.Redis
) -> None:
    for cursor in ("", "yesterday"):
        error = await fails(stream(client, store, cursor=cursor).read())
        assert isinstance(error, errors.InvalidArgument)
        assert error.violations[0][0] == "cursor"

    call = stream(client, store)
    old = (await call.read()).cursor
    call.cancel()
    await raise_numbers(client, store, range(3))
    log = f"poi:{{{store.partition('/')[2]}}}:alerts:log"
    assert await redis_client.xlen(log) == 3
    await tail.trim(redis_client, log, time.time_ns() // 1_000_000 + 60_000)
    error = await fails(stream(client, store, cursor=old).read())
    assert isinstance(error, errors.OutOfRange)
    assert error.reason == "CURSOR_EXPIRED"


async def test_filters_that_are_no_names_are_refused(client: AlertServiceAsyncStub, store: str) -> None:
    error = await fails(stream(client, store, cameras=["c1"]).read())
    assert isinstance(error, errors.InvalidArgument)
    error = await fails(stream(client, store, start_time=Timestamp(seconds=1 << 60)).read())
    assert isinstance(error, errors.InvalidArgument)
    assert error.violations[0][0] == "start_time"


async def test_two_hundred_clients_see_each_alert_once(
    client: AlertServiceAsyncStub, alert_server: Service, store: str
) -> None:
    first = stream(client, store)
    cursor = (await first.read()).cursor
    first.cancel()
    followers = [Follower(store, alert_server.target, cursor=cursor) for _ in range(200)]
    running = [asyncio.create_task(follower.run(40)) for follower in followers]

    names = await raise_numbers(client, store, range(40))

    await asyncio.gather(*running)
    assert all(follower.alerts == names for follower in followers)
    assert not any(follower.interruptions for follower in followers)


async def test_a_client_that_does_not_read_delays_nobody_and_misses_nothing(
    client: AlertServiceAsyncStub, alert_server: Service, store: str
) -> None:
    # 2,000 alerts with a 4 KB name are more than the transport (64 KB a stream) and the ring (1,024) hold.
    count = 2_000
    async with connected(alert_server.target) as lazy:
        sleeper = stream(lazy, store)
        start = (await sleeper.read()).cursor
        follower = Follower(store, alert_server.target, cursor=start)
        reading = asyncio.create_task(follower.run(count))
        names = []
        for batch in range(0, count, 200):
            made = [candidate(store, f"a{number}") for number in range(batch, batch + 200)]
            for each in made:
                each.match.display_name = "n" * 4_000
            names += [raised.alert for raised in (await raise_alerts(client, store, *made)).alerts]
        await reading
        assert follower.alerts == names

        assert [(await next_event(sleeper)).alert.name for _ in range(count)] == names
        sleeper.cancel()


async def test_no_poll_and_no_timer_is_between_an_alert_and_its_client(
    client: AlertServiceAsyncStub, store: str
) -> None:
    call = stream(client, store)
    await call.read()
    best = 1.0
    # About 3 ms for both on an idle machine, and on a busy one now and then. A poll or a timer would take all of its
    # time each time: the next alert is raised when it has just gone off.
    for number in range(1000):
        started = time.perf_counter()
        _, event = await asyncio.gather(raise_alerts(client, store, candidate(store, f"a{number}")), next_event(call))
        best = min(best, time.perf_counter() - started)
        assert event.event == RAISED
        if number >= 20 and best < 0.02:
            break
    call.cancel()
    assert best < 0.02


async def test_a_draining_server_sends_its_clients_to_another_without_loss(
    redis_server: Redis, service: Any, store: str
) -> None:
    env = {"POI_REDIS_URL": redis_server.url}
    leaving, staying = service("alert_svc", env, name="leaving"), service("alert_svc", env, name="staying")
    follower = Follower(store, leaving.target, staying.target)
    reading = asyncio.create_task(follower.run(60))
    async with connected(staying.target) as client:
        await follower.until_live()
        names = await raise_numbers(client, store, range(20))
        stopping = asyncio.create_task(asyncio.to_thread(leaving.stop))
        names += await raise_numbers(client, store, range(20, 40))
        await stopping
        names += await raise_numbers(client, store, range(40, 60))
    await reading
    assert follower.alerts == names
    assert [type(error) for error in follower.interruptions] == [errors.Draining]
