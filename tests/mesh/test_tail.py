import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from mesh import local, tail
from mesh.errors import InvalidArgument, OutOfRange
from mesh.redis import Redis, connect
from mesh.tail import StreamTail
from tests.support.redis import KINDS, RedisOfKind

KEY = "poi:{s1}:log"


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


async def append(redis: Redis, *values: int, entry_id: str = "*") -> str:
    last: bytes | str = b""
    for value in values:
        last = await redis.xadd(KEY, {"n": value}, id=entry_id)
    assert isinstance(last, bytes)
    return last.decode()


async def read(following: StreamTail, after: str | None, count: int) -> list[int]:
    """The next `count` entries' values, heartbeats left out."""
    values: list[int] = []
    async with aclosing(following.entries(after)) as entries:
        async for entry in entries:
            if entry is not None:
                values.append(int(entry[1][b"n"]))
            if len(values) == count:
                break
    return values


async def blocked_readers(redis: Redis) -> int:
    return sum(client["cmd"] == "xread" and "b" in client["flags"] for client in await redis.client_list())


async def until_readers(redis: Redis, wanted: int) -> None:
    async with asyncio.timeout(60):
        while await blocked_readers(redis) != wanted:
            pass  # each look is a round trip


async def test_every_subscriber_sees_every_entry_once_and_in_order_through_one_reader(redis: Redis) -> None:
    following = StreamTail(redis, KEY)
    start = await following.position()

    readers = [asyncio.create_task(read(following, start, 500)) for _ in range(20)]
    await until_readers(redis, 1)
    await append(redis, *range(500))

    assert all(values == list(range(500)) for values in await asyncio.gather(*readers))


async def test_many_who_come_at_once_open_few_connections(server: local.Redis, redis: Redis) -> None:
    await append(redis, 1)
    before = len(await redis.client_list())
    async with connect(server.url) as own:
        following = StreamTail(own, KEY)

        await asyncio.gather(*(following.position() for _ in range(200)))

        assert len(await redis.client_list()) - before <= tail._ASKING


async def test_the_reader_runs_only_while_there_are_subscribers(redis: Redis) -> None:
    following = StreamTail(redis, KEY)
    await until_readers(redis, 0)
    for _ in range(2):
        async with aclosing(following.entries(None)) as entries:
            assert await anext(entries) is None
            await until_readers(redis, 1)
        await until_readers(redis, 0)


async def test_a_reader_whose_cancellation_was_lost_ends_with_its_next_answer(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, finished = asyncio.Event(), asyncio.Event()

    async def xread(*_: object, **__: object) -> list[object]:
        asked.set()
        try:
            await finished.wait()
        except asyncio.CancelledError:
            finished.set()  # as redis-py does where an answer comes at that moment
        await asyncio.sleep(0)
        return []

    monkeypatch.setattr(redis, "xread", xread)
    async with aclosing(StreamTail(redis, KEY).entries(None)) as entries:
        await anext(entries)
        await asyncio.wait_for(asked.wait(), 60)
        [reader] = [task for task in asyncio.all_tasks() if task.get_name() == f"tail {KEY}"]

    ended, _ = await asyncio.wait({reader}, timeout=60)
    reader.cancel()

    assert ended
    assert not reader.cancelled()
    assert finished.is_set()


async def test_from_now_on_leaves_out_what_was_before(redis: Redis) -> None:
    following = StreamTail(redis, KEY)
    await append(redis, 1, 2)
    async with aclosing(following.entries(None)) as entries:
        assert await anext(entries) is None
        await append(redis, 3)
        entry = await anext(entries)
    assert entry is not None
    assert entry[1] == {b"n": b"3"}


async def test_a_cursor_in_the_past_gives_the_past_then_the_present(redis: Redis) -> None:
    following = StreamTail(redis, KEY, ring=8)  # the past and the burst are far more than the ring
    await append(redis, -1)
    cursor = await append(redis, 0)
    await append(redis, *range(1, 700))

    reading = asyncio.create_task(read(following, cursor, 1399))
    await append(redis, *range(700, 1400))

    assert await reading == list(range(1, 1400))


async def test_a_slow_subscriber_delays_nobody_and_misses_nothing(redis: Redis) -> None:
    following = StreamTail(redis, KEY, ring=16)
    start = await following.position()
    async with aclosing(following.entries(start)) as slow:
        assert await anext(slow) is None
        await append(redis, *range(1000))
        assert await read(following, start, 1000) == list(range(1000))  # while `slow` stands still

        seen: list[int] = []
        while len(seen) < 1000:
            entry = await anext(slow)
            assert entry is not None
            seen.append(int(entry[1][b"n"]))
    assert seen == list(range(1000))


async def test_heartbeats_come_first_and_in_quiet_times(redis: Redis) -> None:
    following = StreamTail(redis, KEY, heartbeat=0.05)
    async with aclosing(following.entries(None)) as entries:
        assert await anext(entries) is None
        async with asyncio.timeout(60):
            assert await anext(entries) is None
            assert await anext(entries) is None


async def test_position_of_a_log_that_was_never_written_misses_nothing(redis: Redis) -> None:
    following = StreamTail(redis, KEY)
    cursor = await following.position()
    await append(redis, 1, 2, 3)
    assert await read(following, cursor, 3) == [1, 2, 3]


async def test_position_is_the_end_even_when_all_entries_are_trimmed(redis: Redis) -> None:
    following = StreamTail(redis, KEY)
    last = await append(redis, 1, 2)
    await tail.trim(redis, KEY, int(last.partition("-")[0]) + 1)
    assert await redis.xlen(KEY) == 0

    cursor = await following.position()

    assert cursor == last
    await append(redis, 3)
    assert await read(following, cursor, 1) == [3]


async def test_a_cursor_older_than_the_trimmed_log_is_refused(redis: Redis) -> None:
    following = StreamTail(redis, KEY)
    for milliseconds in range(1, 6):
        await append(redis, milliseconds, entry_id=f"{milliseconds}-0")
    await tail.trim(redis, KEY, 4)

    for expired in ("0-0", "1-0", "2-7"):
        with pytest.raises(OutOfRange) as refusal:
            await anext(following.entries(expired))
        assert refusal.value.reason == "CURSOR_EXPIRED"
    assert await read(following, "3-0", 2) == [4, 5]  # saw the last one that is gone: nothing is missed


async def test_a_subscriber_whose_place_is_trimmed_while_it_sleeps_is_refused(redis: Redis) -> None:
    following = StreamTail(redis, KEY, ring=4)
    async with aclosing(following.entries(None)) as entries:
        assert await anext(entries) is None
        await until_readers(redis, 1)
        for milliseconds in range(1, 101):
            await append(redis, milliseconds, entry_id=f"{milliseconds}-0")
        await tail.trim(redis, KEY, 50)
        async with aclosing(following.entries("99-0")) as other:  # the ring has gone past
            assert await anext(other) is None
            assert await anext(other) is not None
        with pytest.raises(OutOfRange):
            await anext(entries)


async def test_trim_keeps_what_is_young(redis: Redis) -> None:
    for milliseconds in (1, 2, 3):
        await append(redis, milliseconds, entry_id=f"{milliseconds}-0")
    await tail.trim(redis, KEY, 1)
    assert await redis.xlen(KEY) == 3
    assert await redis.get(tail.note_key(KEY)) is None
    await tail.trim(redis, KEY, 3)
    assert await redis.get(tail.note_key(KEY)) == b"2-0"


@pytest.mark.parametrize(
    "cursor", ["", "x", "12", "1-", "-1-0", "1-0-0", "1 - 0", "1-99999999999999999999", "\u0661-\u0660"]
)
async def test_what_is_no_cursor_is_refused(redis: Redis, cursor: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        await anext(StreamTail(redis, KEY).entries(cursor))
    assert refusal.value.violations[0][0] == "cursor"


async def test_since_gives_what_was_appended_at_that_time_or_later(redis: Redis) -> None:
    following = StreamTail(redis, KEY)
    for milliseconds in (10, 20, 30):
        await append(redis, milliseconds, entry_id=f"{milliseconds}-0")
    assert await read(following, await following.since(20), 2) == [20, 30]
    assert await read(following, await following.since(0), 3) == [10, 20, 30]
    await tail.trim(redis, KEY, 20)
    assert await read(following, await following.since(5), 2) == [20, 30]  # all that is kept


async def test_redis_killed_and_started_again_costs_nobody_an_entry(redis: Redis, server: local.Redis) -> None:
    following = StreamTail(redis, KEY, ring=32)
    start = await following.position()
    readers = [asyncio.create_task(read(following, start, 300)) for _ in range(5)]
    await append(redis, *range(100))
    for first in (100, 200):
        await until_readers(redis, 1)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        # A write that is repeated on a broken connection would be ours, not the reader's: write on a fresh one.
        await redis.connection_pool.disconnect(inuse_connections=False)
        await append(redis, *range(first, first + 100))
    assert all(values == list(range(300)) for values in await asyncio.gather(*readers))
