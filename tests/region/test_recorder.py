"""Scenes in Redis: durable, once, whoever records them."""

import asyncio
import random
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from history_svc.region.keys import Keys
from history_svc.region.model import Update, Visit
from history_svc.region.query import Filter, VisitQuery
from history_svc.region.recorder import Recorder
from history_svc.region.store import SceneStore, event_of
from history_svc.region.tracker import Rules, SceneTracker
from mesh.redis import Redis
from tests.region.scenes import at, seen

RULES = Rules(gap=3_000, silence=10_000)
DAY = 86_400_000


def recorder(redis: Redis, rules: Rules = RULES, *, retention: int = DAY, max_events: int = 1000) -> Recorder:
    return Recorder(SceneStore(redis), rules, retention=retention, max_events=max_events)


async def visits(redis: Redis) -> list[Visit]:
    """All that are kept, in the order of entry."""
    found, following = await VisitQuery(redis).page("s1", Filter(), 10_000, None)
    assert following is None
    return found[::-1]


async def events(redis: Redis) -> list[tuple[str, str]]:
    """(event, visit id) of the log."""
    log: Any = await redis.xrange(Keys("s1").events)
    return [(event.value, visit.id) for event, visit in (event_of(fields) for _, fields in log)]


def crowd(seed: int, count: int = 60) -> list[Update]:
    """People who come, go, pause and vanish."""
    chance = random.Random(seed)
    where: dict[str, set[str]] = {f"p{number}": set() for number in range(8)}
    updates = []
    for tick in range(count):
        for zones in where.values():
            if chance.random() < 0.3:
                zones.symmetric_difference_update({chance.choice(["door", "aisle", "till"])})
        people = [seen(name, *sorted(zones), cameras=["c1"]) for name, zones in where.items() if chance.random() < 0.8]
        updates.append(at(100 + tick * chance.choice([0.5, 1]), *people))
    return sorted(updates, key=lambda update: update.time)


def alone(updates: list[Update]) -> tuple[dict[str, Visit], list[tuple[str, str]]]:
    """What one tracker that is never disturbed makes of it: visits by id, events."""
    tracker = SceneTracker("hall", RULES)
    for update in updates:
        tracker.apply(update)
    changes = tracker.take_changes()
    return dict(changes.visits), [(event.value, visit.id) for event, visit in changes.events]


async def check(redis: Redis, updates: list[Update]) -> None:
    wanted, told = alone(updates)
    assert {visit.id: visit for visit in await visits(redis)} == wanted
    assert sorted(await events(redis)) == sorted(told)


async def test_visits_and_events_are_those_of_the_rules(redis: Redis) -> None:
    updates = crowd(1)
    recording = recorder(redis)
    for start in range(0, 60, 7):
        await recording.record("s1", "hall", updates[start : start + 7])
    await check(redis, updates)
    assert await events(redis) == alone(updates)[1]


async def test_every_batch_by_a_new_process_and_twice(redis: Redis) -> None:
    updates = crowd(2)
    for start in range(0, 60, 3):
        for _ in range(2):
            await recorder(redis).record("s1", "hall", updates[start : start + 3])
    await check(redis, updates)


async def test_two_processes_that_record_the_same_scene_at_once(redis: Redis) -> None:
    updates = crowd(3)

    async def run(recording: Recorder) -> None:
        for update in updates:
            await recording.record("s1", "hall", [update])

    await asyncio.gather(run(recorder(redis)), run(recorder(redis)))
    await check(redis, updates)


async def test_streams_of_one_process_take_turns(redis: Redis) -> None:
    updates, recording = crowd(4), recorder(redis)
    await asyncio.gather(*(recording.record("s1", "hall", [update]) for update in updates))
    await check(redis, updates)


async def test_a_batch_whose_answer_was_lost_is_recorded_once(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    updates, recording = crowd(5), recorder(redis)
    commit, lose = SceneStore.commit, True

    async def commit_and_lose(self: SceneStore, *args: Any, **options: Any) -> str | None:
        nonlocal lose
        lose = not lose
        done = await commit(self, *args, **options)
        if lose:
            raise ConnectionError("lost")
        return done

    monkeypatch.setattr(SceneStore, "commit", commit_and_lose)
    for update in updates:
        try:
            await recording.record("s1", "hall", [update])
        except ConnectionError:
            await recording.record("s1", "hall", [update])
    await check(redis, updates)


async def test_a_batch_that_never_reached_redis_is_recorded_when_it_is_sent_again(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = recorder(redis)
    await recording.record("s1", "hall", [at(1, seen("ann", "door"))])

    async def lost(*_: Any, **__: Any) -> None:
        raise ConnectionError("lost")

    batch = [at(2, seen("ann", "till")), at(3, seen("ann"))]
    with monkeypatch.context() as broken:
        broken.setattr(SceneStore, "commit", lost)
        with pytest.raises(ConnectionError):
            await recording.record("s1", "hall", batch)
    await recording.record("s1", "hall", batch)
    await check(redis, [at(1, seen("ann", "door")), *batch])


async def test_a_redis_that_forgot_everything_does_not_stop_the_scene(redis: Redis) -> None:
    recording = recorder(redis)
    await recording.record("s1", "hall", [at(1, seen("ann", "door"))])
    await redis.flushall()
    await redis.script_flush()
    await recording.record("s1", "hall", [at(2, seen("ann", "door"))])
    await check(redis, [at(2, seen("ann", "door"))])
    assert await SceneStore(redis).stores() == ["s1"]


async def test_scenes_do_not_mix(redis: Redis) -> None:
    recording = recorder(redis)
    for store, scene in [("s1", "hall"), ("s1", "yard"), ("s2", "hall")]:
        await recording.record(store, scene, [at(1, seen("ann", "door"))])
    assert [(visit.scene, visit.zone) for visit in await visits(redis)] in (
        [("hall", "door"), ("yard", "door")],
        [("yard", "door"), ("hall", "door")],
    )
    assert len({visit.id for visit in await visits(redis)}) == 2


@pytest.mark.parametrize("object_id", ['"quoted"', "back\\slash", "zero\0zero", "line\nline", "Ælfgifu 🛒", "7"])
async def test_ids_of_any_characters_survive(redis: Redis, object_id: str) -> None:
    updates = [at(1, seen(object_id, "door")), at(2, seen(object_id)), at(3, seen(object_id, "door", "till"))]
    for update in updates:
        await recorder(redis).record("s1", "hall", [update])
    await check(redis, updates)
    snapshot = await SceneStore(redis).load("s1", "hall")
    assert snapshot.state.ends == {(object_id, "door"): 2000}


async def test_a_scene_that_falls_silent_is_closed_once_and_only_then(redis: Redis) -> None:
    quick = Rules(gap=100, silence=2000)
    first, second = recorder(redis, quick), recorder(redis, quick)
    await first.record("s1", "hall", [at(1, seen("ann", "door")), at(1.05, seen("ann", "door"))])
    await first.close_silent()
    assert [name for name, _ in await events(redis)] == ["entered"]
    await asyncio.sleep(2.05)
    await asyncio.gather(first.close_silent(), second.close_silent())
    await second.close_silent()
    assert [name for name, _ in await events(redis)] == ["entered", "exited"]
    (visit,) = await visits(redis)
    assert (visit.enter, visit.exit) == (1000, 1050)

    await first.record("s1", "hall", [at(1.1, seen("ann", "door"))])  # it was only late
    assert [name for name, _ in await events(redis)] == ["entered", "exited", "entered"]
    (reopened,) = await visits(redis)
    assert (reopened.id, reopened.exit, reopened.seen) == (visit.id, None, 1100)


async def test_visits_are_kept_for_their_time_after_they_closed(redis: Redis) -> None:
    recording = recorder(redis, retention=2000)
    await recording.record("s1", "hall", [at(1, seen("ann", "door", "hall")), at(2, seen("ann", "hall"))])
    await recording.forget()
    assert len(await visits(redis)) == 2
    await asyncio.sleep(2.05)
    await recording.forget()
    assert [visit.zone for visit in await visits(redis)] == ["hall"]  # goes on
    assert await events(redis) == []
    assert await redis.zcard(Keys("s1").closed) == 0


async def test_the_log_has_a_limit(redis: Redis) -> None:
    recording = recorder(redis, max_events=10)
    for second in range(1, 40):
        await recording.record("s1", "hall", [at(second, seen("ann", f"z{second}"))])
    whole = await events(redis)
    await recording.forget()
    assert await events(redis) == whole[-10:]


async def test_housekeeping_survives_an_outage(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = recorder(redis, Rules(gap=50, silence=100))
    await recording.record("s1", "hall", [at(1, seen("ann", "door"))])
    stores, calls = SceneStore.stores, 0

    async def fail_first(self: SceneStore) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionError("away")
        return await stores(self)

    monkeypatch.setattr(SceneStore, "stores", fail_first)
    house = asyncio.create_task(recording.keep_house())
    async with asyncio.timeout(60):
        while (await visits(redis))[0].exit is None:
            pass  # each look is a round trip
    house.cancel()
    assert calls > 1
