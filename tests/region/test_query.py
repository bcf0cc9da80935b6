"""Lists of visits against a plain filter over all of them."""

import random

import pytest

from history_svc.region import query
from history_svc.region.keys import LASTING_MS
from history_svc.region.model import Update, Visit
from history_svc.region.query import Filter, Position, VisitQuery
from history_svc.region.recorder import Recorder
from history_svc.region.store import SceneStore
from history_svc.region.tracker import Rules
from mesh.redis import Redis
from tests.region.scenes import at, seen

RULES = Rules(gap=3_000, silence=LASTING_MS * 10)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "_CHUNK", 3)


def strolls(seed: int) -> list[Update]:
    """Some short visits, some of hours, many of the same millisecond."""
    chance = random.Random(seed)
    people = [f"p{number}" for number in range(6)]
    where: dict[str, list[str]] = {}
    time, updates = 1_000.0, []
    for _ in range(40):
        time += chance.choice([1, 2, 600, LASTING_MS / 1500])
        for name in chance.sample(people, 2):
            where[name] = chance.sample(["door", "aisle", "till"], chance.choice([0, 1, 2]))
        updates.append(
            at(time, *(seen(name, *where.get(name, []), cameras=[chance.choice(["c1", "c2"])]) for name in people))
        )
    return updates


async def fill(redis: Redis, updates: list[Update], scene: str = "hall") -> None:
    await Recorder(SceneStore(redis), RULES, retention=1 << 40, max_events=1000).record("s1", scene, updates)


async def listed(redis: Redis, wanted: Filter, limit: int) -> list[Visit]:
    found: list[Visit] = []
    after: Position | None = None
    while True:
        page, after = await VisitQuery(redis).page("s1", wanted, limit, after)
        assert len(page) <= limit
        found += page
        if after is None:
            return found


async def test_any_filter_gives_what_a_look_at_all_visits_gives(redis: Redis) -> None:
    for seed, scene in [(1, "hall"), (2, "yard")]:
        await fill(redis, strolls(seed), scene)
    whole = await listed(redis, Filter(), 1000)
    assert len(whole) > 60
    assert any(visit.exit is None for visit in whole)
    assert any(visit.dwell > LASTING_MS for visit in whole)
    assert [(visit.enter, visit.id) for visit in whole] == sorted(((v.enter, v.id) for v in whole), reverse=True)
    chance = random.Random(7)
    times = [edge for visit in whole for edge in (visit.enter, visit.exit or visit.seen)]
    nonempty = 0
    for _ in range(150):
        wanted = Filter(
            start=chance.choice([None, chance.choice(times) + chance.choice([-1, 0, 1])]),
            end=chance.choice([None, chance.choice(times) + chance.choice([-1, 0, 1])]),
            zones=frozenset(chance.choice([[], [("hall", "door"), ("yard", "till")]])),
            object_ids=frozenset(chance.choice([[], [], ["p1", "p2"]])),
            cameras=frozenset(chance.choice([[], [], ["c1"]])),
            open=chance.choice([None, None, True, False]),
        )
        expected = [visit for visit in whole if wanted.accepts(visit)]
        nonempty += bool(expected)
        assert await listed(redis, wanted, chance.choice([1, 2, 5, 1000])) == expected
    assert nonempty > 50


async def test_pages_stay_stable_while_people_come_and_go(redis: Redis) -> None:
    updates = [at(second, *(seen(f"p{number}", f"z{second}") for number in range(4))) for second in range(1, 21)]
    await fill(redis, updates[:15])
    before = await listed(redis, Filter(), 1000)
    first, after = await VisitQuery(redis).page("s1", Filter(), 10, None)
    await fill(redis, updates[15:])
    rest: list[Visit] = []
    while after is not None:
        page, after = await VisitQuery(redis).page("s1", Filter(), 10, after)
        rest += page
    assert [visit.id for visit in (*first, *rest)] == [visit.id for visit in before]


async def test_a_search_for_a_needle_answers_in_steps(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "_BUDGET", 6)
    await fill(redis, [at(second, seen("ann" if second == 2 else "bob", f"z{second}")) for second in range(1, 30)])
    wanted = Filter(object_ids=frozenset({"ann"}))
    page, after = await VisitQuery(redis).page("s1", wanted, 10, None)
    assert page == []
    assert after is not None
    assert [visit.zone for visit in await listed(redis, wanted, 10)] == ["z2"]


async def test_the_last_sight_of_a_visit_that_goes_on_is_the_newest(redis: Redis) -> None:
    await fill(redis, [at(1, seen("ann", "door"), seen("bob", "door")), at(2, seen("ann", "door"))])
    found = {visit.object_id: visit for visit in await listed(redis, Filter(open=True), 10)}
    assert {name: (visit.seen, visit.dwell) for name, visit in found.items()} == {"ann": (2000, 1000), "bob": (1000, 0)}
