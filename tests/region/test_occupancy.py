"""Occupancy over a time, against counting at every moment of it."""

from hypothesis import given
from hypothesis import strategies as st

from history_svc.region import query
from history_svc.region.model import Visit
from history_svc.region.occupancy import Occupancies, ZoneOccupancy
from history_svc.region.query import VisitQuery
from history_svc.region.recorder import Recorder
from history_svc.region.store import SceneStore
from history_svc.region.tracker import Rules
from mesh.redis import Redis
from tests.region.scenes import at, seen


def inside(visit: Visit, moment: float) -> bool:
    """Whether the visit counts at the moment; at the very one that it ends only where it is just that moment."""
    if visit.exit is None or visit.exit == visit.enter:
        return visit.enter <= moment <= visit.seen
    return visit.enter <= moment < visit.exit


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5), st.booleans(), st.sampled_from("ABC"))),
    st.integers(0, 12),
    st.integers(1, 10),
)
def test_it_is_what_counting_at_every_moment_gives(
    stays: list[tuple[int, int, bool, str]], start: int, length: int
) -> None:
    visits = [
        Visit("s", "z", who, enter=enter, seen=enter + stay, exit=enter + stay if over else None)
        for enter, stay, over, who in stays
    ]
    end = start + length
    found = Occupancies(start, end)
    found.add(visits[:3])
    found.add(visits[3:])

    counted = [visit for visit in visits if any(inside(visit, moment) for moment in range(start, end))]
    expected = ZoneOccupancy(
        visits=len(counted),
        visitors=len({visit.object_id for visit in counted}),
        peak=max(sum(inside(visit, moment) for visit in visits) for moment in range(start, end)),
        # Nothing happens between whole milliseconds: the half ones tell of all that is between.
        dwell=sum(inside(visit, moment + 0.5) for visit in visits for moment in range(start, end)),
    )
    assert found.zones() == ({"z": expected} if counted else {})


async def test_every_page_of_visits_counts(redis: Redis) -> None:
    recorder = Recorder(SceneStore(redis), Rules(), retention=1 << 40, max_events=1000)
    updates = [at(second, *(seen(f"p{number}", f"z{second % 2}") for number in range(3))) for second in range(1, 13)]
    for scene in ("hall", "yard"):
        await recorder.record("s1", scene, updates)
    budget, query._BUDGET = query._BUDGET, 4
    try:
        found = await VisitQuery(redis).occupancies("s1", "hall", ["z0", "z1"], 2_500, 10_000)
        nothing = await VisitQuery(redis).occupancies("s1", "hall", [], 2_500, 10_000)
    finally:
        query._BUDGET = budget
    assert found == {"z0": ZoneOccupancy(12, 3, 3, 3 * 3_500), "z1": ZoneOccupancy(12, 3, 3, 3 * 4_000)}
    assert nothing == {}
