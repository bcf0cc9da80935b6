"""The alert log on a real Redis, 7 and 6.2."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import alert_pb2

from alert_svc.alerts import new_alert
from alert_svc.log import AlertLog
from alert_svc.times import now
from alert_svc.triage import Action
from mesh import local
from mesh.errors import NotFound, ResourceExhausted
from mesh.redis import Redis, connect
from tests.alert_svc.support import candidate
from tests.support import until
from tests.support.redis import KINDS, RedisOfKind

STORE = "stores/s1"
DAY = 86_400 * 10**6


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.Redis]:
    with RedisOfKind(tmp_path_factory.mktemp("redis"), request.param) as running:
        yield running


@pytest.fixture
async def redis(server: local.Redis) -> AsyncIterator[Redis]:
    client = connect(server.url)
    await client.flushall()
    yield client
    await client.aclose()


def an_alert(appearance: str, age_days: float = 0) -> alert_pb2.Alert:
    time = Timestamp()
    time.FromMicroseconds(now().ToMicroseconds() - round(age_days * DAY))
    return new_alert(candidate(STORE, appearance), "s1", time, "")


async def all_of(log: AlertLog) -> list[alert_pb2.Alert]:
    return (await log.list("s1", lambda alert: True, limit=1000))[0]


async def test_a_call_that_redis_ran_twice_because_its_answer_was_lost_raised_its_alerts_once(redis: Redis) -> None:
    log, alerts = AlertLog(redis, retention_days=7), [an_alert("a1"), an_alert("a2")]
    for _ in range(2):  # "created" is still the truth about this call
        assert [raised.created for raised in await log.raise_all("s1", alerts)] == [True, True]
    assert [raised.created for raised in await log.raise_all("s1", [an_alert("a1")])] == [False]
    assert await redis.xlen("poi:{s1}:alerts:log") == 2
    assert len(await all_of(log)) == 2


async def test_a_follower_that_is_slower_than_the_ring_misses_nothing_unless_it_asks_to_be_told(redis: Redis) -> None:
    log = AlertLog(redis, retention_days=7, ring=4)
    names = [an_alert(f"a{number}").name for number in range(40)]

    async def follow(*, refuse_slow: bool) -> list[str]:
        await redis.flushall()
        seen: list[str] = []
        async with aclosing(log.follow("s1", "0-0", refuse_slow=refuse_slow)) as changes:
            assert await anext(changes) is None
            await log.raise_all("s1", [an_alert("a0")])
            async for change in changes:
                assert change is not None
                seen.append(alert_pb2.Alert.FromString(change.snapshot).name)
                if len(seen) == 1:  # it is live now, and takes its time while more comes than the ring holds
                    for number in range(1, 40):
                        await log.raise_all("s1", [an_alert(f"a{number}")])
                    newest: Any = await redis.xrevrange("poi:{s1}:alerts:log", count=1)
                    last = newest[0][0].decode()
                    await until(lambda last=last: log._tail("s1")._ring[-1].id == last, "it has left the ring behind")  # type: ignore[misc]
                if len(seen) == 40:
                    return seen
        raise AssertionError("a follower has no end")

    assert await follow(refuse_slow=False) == names
    with pytest.raises(ResourceExhausted) as told:
        await follow(refuse_slow=True)
    assert told.value.reason == "SLOW_CLIENT"


async def test_a_change_and_its_log_entry_are_one(redis: Redis) -> None:
    log, alert = AlertLog(redis, retention_days=7), an_alert("a1")
    await log.raise_all("s1", [alert])
    changed = await log.act(alert.name, Action(alert_pb2.ALERT_STATE_RESOLVED, "ann", "", ""))
    entries: Any = await redis.xrange("poi:{s1}:alerts:log")
    assert [(int(fields[b"event"]), alert_pb2.Alert.FromString(fields[b"alert"])) for _, fields in entries] == [
        (alert_pb2.ALERT_EVENT_RAISED, alert),
        (alert_pb2.ALERT_EVENT_RESOLVED, changed),
    ]


async def test_what_is_older_than_the_retention_goes_without_anybody_raising_an_alert(redis: Redis) -> None:
    log = AlertLog(redis, retention_days=7)
    old, young = [an_alert(f"o{number}", 7.01) for number in range(300)], an_alert("y", 6.99)
    await redis.xadd("poi:{s1}:alerts:log", {"event": 1, "alert": old[0].SerializeToString()}, id="1-0")
    for alert in (*old, young):
        stored = alert.SerializeToString()
        name = alert.name.rpartition("/")[2]
        await redis.hset("poi:{s1}:alerts", name, stored)
        await redis.zadd("poi:{s1}:alerts:index", {f"{alert.create_time.ToMicroseconds():016x}{name}": 0})

    await log.raise_all("s1", [an_alert("n")])
    assert len(await all_of(log)) == 302
    await AlertLog(redis, retention_days=7).sweep()  # of a server that has just started

    assert [alert.appearance.rpartition("/")[2] for alert in await all_of(log)] == ["n", "y"]
    assert await redis.hlen("poi:{s1}:alerts") == 2
    assert await redis.xlen("poi:{s1}:alerts:log") == 1
    assert await redis.zcard("poi:{s1}:alerts:due") == 1
    with pytest.raises(NotFound):
        await log.get(old[0].name)


async def test_a_page_that_few_pass_is_short_and_says_where_to_go_on(redis: Redis) -> None:
    log = AlertLog(redis, retention_days=7)
    alerts = [an_alert(f"a{number}", number / 2000) for number in range(6_000)]
    for start in range(0, len(alerts), 250):
        await log.raise_all("s1", alerts[start : start + 250])

    oldest = alerts[-1].name
    found, before = await log.list("s1", lambda alert: alert.name == oldest, limit=10)
    assert (found, bool(before)) == ([], True)
    found, before = await log.list("s1", lambda alert: alert.name == oldest, before=before, limit=10)
    assert ([alert.name for alert in found], before) == ([oldest], "")
