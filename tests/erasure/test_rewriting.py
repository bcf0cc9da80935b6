"""A log is made anew while others write to it and follow it: nothing that stays is lost, moved or told twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import pytest
from poi.v1 import alert_pb2

from alert_svc.alerts import new_alert
from alert_svc.erasing import rewriting
from alert_svc.erasing.rewriting import Fields, rewrite
from alert_svc.evidence.sources import Sources
from alert_svc.export.archive import Archive
from alert_svc.export.exporter import Exporter
from alert_svc.keys import key
from alert_svc.log import AlertLog
from alert_svc.times import now
from mesh import redis as connections
from mesh.errors import NotFound
from mesh.purging import purge
from mesh.redis import Redis
from mesh.tail import StreamTail
from tests.alert_svc.support import candidate

LOG = "poi:{s1}:alerts:log"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    """An empty Redis."""
    made = connections.connect(redis_url)
    yield made
    await made.aclose()


def _even(fields: Fields) -> Fields | None:
    number = int(fields[b"alert"] or b"0")
    if number % 2:
        return None
    return {**fields, b"alert": b"%d" % (number + 1_000_000)} if number % 10 == 0 else fields


async def _write(client: Redis, numbers: range) -> None:
    for number in numbers:
        await client.xadd(LOG, {"event": "1", "alert": str(number)})


async def test_what_stays_keeps_its_place_whoever_writes_meanwhile(client: Redis) -> None:
    await _write(client, range(1000))
    await client.xgroup_create(LOG, "others", id="0")
    before: Any = await client.xrange(LOG)
    writing = asyncio.create_task(_write(client, range(1000, 3000)))
    await asyncio.sleep(0.05)

    await rewrite(client, LOG, _even, 10, [b"told"])

    await writing
    after: Any = await client.xrange(LOG)
    kept = [(raw, fields[b"alert"]) for raw, fields in after if fields[b"event"] == b"1"]
    assert kept == sorted(kept, key=lambda one: tuple(map(int, one[0].split(b"-"))))
    numbers = [int(alert) % 1_000_000 for _, alert in kept]
    assert numbers == sorted(numbers)
    assert [one for one in numbers if one < 1000] == list(range(0, 1000, 2))
    assert [one for one in numbers if one % 2 == 0] == list(range(0, 3000, 2)), "of what came meanwhile, too"
    places = dict(before)
    assert all(raw in places for raw, alert in kept if int(alert) % 1_000_000 < 1000), "cursors stay good"
    assert all(int(alert) >= 1_000_000 for _, alert in kept if int(alert) % 10 == 0 and int(alert) % 1_000_000 < 1000)
    assert [fields[b"alert"] for _, fields in after if fields[b"event"] == b"10"] == [b"told"]
    groups: Any = await client.xinfo_groups(LOG)
    assert [group["name"] for group in groups] == [b"others"]
    assert await client.ttl(LOG) == -1
    assert await client.keys("*draft*") == []


async def test_a_log_that_loses_all_its_entries_goes_on_behind_its_end(client: Redis) -> None:
    await _write(client, range(1, 20, 2))
    newest: Any = await client.xrevrange(LOG, count=1)
    last = newest[0][0]

    await rewrite(client, LOG, _even, 10, [])

    left: Any = await client.xrange(LOG)
    ((marker, fields),) = left
    assert tuple(map(int, marker.split(b"-"))) > tuple(map(int, last.split(b"-")))
    assert fields[b"event"] == b"0"


async def test_of_two_at_once_neither_brings_back_what_the_other_took_out(client: Redis) -> None:
    await _write(client, range(600))
    looked, changed = asyncio.Event(), asyncio.Event()

    def without(number: int) -> Any:
        return lambda fields: None if fields[b"alert"] == b"%d" % number else fields

    async def second() -> None:
        await looked.wait()
        await rewrite(client, LOG, without(300), 10, [])
        changed.set()

    pages = rewriting._page

    async def page(redis: Redis, log: str, after: str) -> Any:
        found = await pages(redis, log, after)
        if asyncio.current_task() is first and not looked.is_set() and not found:
            looked.set()
            await changed.wait()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewriting, "_page", page)
        first, other = asyncio.create_task(rewrite(client, LOG, without(200), 10, [])), asyncio.create_task(second())
        await asyncio.gather(first, other)

    after: Any = await client.xrange(LOG)
    left = [int(fields[b"alert"]) for _, fields in after if fields[b"event"] == b"1"]
    assert left == [number for number in range(600) if number not in (200, 300)]


async def test_an_exchange_whose_answer_was_lost_takes_nothing_out(client: Redis) -> None:
    await _write(client, range(20))
    register = client.register_script
    lost: list[bool] = []

    def registering(script: str) -> Any:
        made = register(script)

        async def run(keys: Any, args: Any) -> Any:
            answer = await made(keys=keys, args=args)
            if not answer and not lost:  # the client sends it again
                lost.append(True)
                answer = await made(keys=keys, args=args)
            return answer

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "register_script", registering)
        await rewrite(client, LOG, _even, 10, [b"40"])

    after: Any = await client.xrange(LOG)
    left = [int(fields[b"alert"]) % 1_000_000 for _, fields in after if fields[b"event"] == b"1"]
    assert lost == [True]
    assert left == list(range(0, 20, 2))


async def test_followers_do_not_tell_from_memory_what_is_gone(client: Redis) -> None:
    tail = StreamTail(client, LOG, heartbeat=0.2)
    await _write(client, range(1))
    start = await tail.position()
    async with aclosing(tail.entries(start)) as live:
        assert await anext(live) is None
        await _write(client, range(1, 5))
        seen = [await anext(live) for _ in range(4)]
        assert [entry[1][b"alert"] for entry in seen if entry] == [b"1", b"2", b"3", b"4"]

        await rewrite(client, LOG, _even, 10, [])

        marker = await anext(live)
        assert marker is not None
        assert marker[1][b"event"] == b"0"
        async with aclosing(tail.entries(start)) as late:
            assert await anext(late) is None
            again = [await anext(late) for _ in range(3)]
        assert [entry[1][b"alert"] for entry in again if entry] == [b"2", b"4", b""]


async def test_a_live_follower_is_not_taken_for_a_slow_one(client: Redis) -> None:
    for _ in range(30):
        await client.delete(LOG)
        tail = StreamTail(client, LOG, heartbeat=5)
        await _write(client, range(1))
        async with aclosing(tail.entries("0-0", refuse_slow=True)) as live:
            assert await anext(live) is None
            assert await anext(live) is not None
            waiting = asyncio.ensure_future(anext(live))
            await asyncio.sleep(0.01)
            # Both in one read of the follower's: an entry that it has not told yet, and the rewriting.
            async with client.pipeline(transaction=True) as pipe:
                pipe.xadd(LOG, {"event": "1", "alert": "2"})
                pipe.xadd(LOG, {"event": "0", "alert": "", "rewritten": "1"})
                pipe.xadd(LOG, {"event": "10", "alert": "4"})
                await pipe.execute()
            told = [await waiting, await anext(live), await anext(live)]
            assert [one[1][b"alert"] for one in told if one] == [b"2", b"", b"4"]


async def test_a_reader_that_outlives_its_end_tells_nobody_anything_twice(client: Redis) -> None:
    """A client left while Redis was being connected to: the cancellation of its reader was swallowed."""
    tail = StreamTail(client, LOG, heartbeat=5)
    for number in range(20):
        first = tail.entries("0-0")
        assert await anext(first) is None
        await first.aclose()
        async with aclosing(tail.entries(await tail.position())) as live:
            assert await anext(live) is None
            waiting = asyncio.ensure_future(anext(live))
            await _write(client, range(number, number + 1))
            entry = await waiting
            assert entry is not None
            assert entry[1][b"alert"] == str(number).encode()
            again = asyncio.ensure_future(anext(live))
            await _write(client, range(1000, 1001))
            entry = await again
            assert entry is not None
            assert entry[1][b"alert"] == b"1000", "and not the one before again"


async def test_a_case_file_that_was_begun_is_not_handed_out_once_the_person_is_erased(client: Redis) -> None:
    log = AlertLog(client, retention_days=1)
    alert = new_alert(candidate("stores/s1"), "s1", now(), "")
    await log.raise_all("s1", [alert])

    class Slow(Exporter):
        async def _add_pictures(self, archive: Archive, alert: alert_pb2.Alert) -> None:
            await client.delete(key("s1"))  # as an erasure does, which is done before the file is

    exporter = Slow(client, log, cast("Sources", None), retention_days=1)

    with pytest.raises(NotFound):
        [piece async for piece in exporter.export(alert.name, "ann", "case 7")]

    assert await client.keys("*exports*") == []


async def test_a_purge_is_done_once_for_a_token(client: Redis) -> None:
    info: Any = await client.info("stats")
    assert await purge(client, "t1") == []
    after: Any = await client.info("stats")
    assert await purge(client, "t1") == []
    again: Any = await client.info("stats")
    assert info["total_forks"] < after["total_forks"] == again["total_forks"]
