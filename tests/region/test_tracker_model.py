"""The tracker against a plain statement of the rules that looks at all updates at once."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from history_svc.region.model import Event, SeenObject, Update, Visit, decode, encode
from history_svc.region.tracker import Changes, Presence, Rules, SceneState, SceneTracker

RULES = Rules(gap=3, silence=6, entered_age=12)  # ms: small numbers meet each other often


STEPS = [1, 1, 0, 1, 2, 2, 3, 4, 6, 7, -1]
NEXT = ["go on", "batch ends", "restart", "repeat", "silence"]
CAMERAS: list[tuple[str, ...]] = [(), ("c1",), ("c2",), ("c1", "c2"), ("c2", "c1")]
PEOPLE = 2 * 2 * 2 * 18 * 18 * len(CAMERAS)

# Few draws of plain numbers, which are taken apart: drawing each fact by itself took 100 ms an example.
Code = tuple[int, int, int]
scenes = st.lists(
    st.tuples(st.integers(0, len(STEPS) * len(NEXT) - 1), st.integers(0, PEOPLE - 1), st.integers(0, PEOPLE - 1)),
    min_size=1,
    max_size=25,
)


def read(codes: list[Code]) -> tuple[list[Update], list[str]]:
    """Updates of a small scene, some of which repeat or come too late, and what happens after each."""
    updates, then, time = [], [], 100
    for step_and_next, *people in codes:
        step, following = divmod(step_and_next, len(NEXT))
        time += STEPS[step]
        persons = [_person(object_id, code, time) for object_id, code in zip("AB", people, strict=True)]
        updates.append(Update(time, tuple(person for person in persons if person is not None)))
        then.append(NEXT[following])
    return updates, then


def _person(object_id: str, code: int, time: int) -> SeenObject | None:
    code, cameras = divmod(code, len(CAMERAS))
    claims: dict[str, int | None] = {}
    for zone in "xy":
        code, inside = divmod(code, 2)
        code, claim = divmod(code, 18)
        if inside:
            claims[zone] = time - 14 + claim if claim < 17 else None
    return SeenObject(object_id, claims, CAMERAS[cameras]) if code else None


def expected(updates: list[Update]) -> list[Visit]:
    """The visits as the rules say; those that go on have no exit."""
    newer: list[Update] = []
    for update in updates:
        if not newer or update.time > newer[-1].time:
            newer.append(update)
    presences = {(o.object_id, zone) for update in newer for o in update.objects for zone in o.zones}
    return [visit for presence in sorted(presences) for visit in _visits_of(presence, newer)]


def _visits_of(presence: Presence, updates: list[Update]) -> list[Visit]:
    object_id, zone = presence
    found = [next((o for o in update.objects if o.object_id == object_id), None) for update in updates]
    sights = [index for index, person in enumerate(found) if person is not None and zone in person.zones]
    visits: list[Visit] = []
    for index in sights:
        person = found[index]
        assert person is not None
        now = updates[index].time
        visit = visits[-1] if visits and visits[-1].exit is None else None
        if visit is None:
            claimed = person.zones[zone]
            believed = (
                claimed is not None
                and now - RULES.entered_age <= claimed <= now
                and not any(claimed <= (earlier.exit or 0) for earlier in visits)
            )
            visit = Visit("s", zone, object_id, enter=claimed if believed and claimed else now, seen=now)
            visits.append(visit)
        visit.seen = now
        visit.cameras = tuple(dict.fromkeys((*visit.cameras, *person.cameras)))
        visit.exit = _exit(index, zone, found, updates)
    return visits


def _exit(sight: int, zone: str, found: list[SeenObject | None], updates: list[Update]) -> int | None:
    """When the visit with this sight ends before its next one; None if it does not."""
    last = updates[sight].time
    for index in range(sight + 1, len(updates)):
        away = updates[index].time - last
        missed = away >= RULES.gap if index > sight + 1 else away > RULES.silence
        person = found[index]
        if person is not None:
            if missed:
                return last
            return None if zone in person.zones else updates[index].time
        if away >= RULES.gap:
            return last
    return None


class Ledger:
    """What a store would hold: the last record of each visit, and the events."""

    def __init__(self) -> None:
        self.visits: dict[str, Visit] = {}
        self.tracked: dict[str, Visit] = {}
        self.ends: dict[Presence, int] = {}
        self.events: dict[str, list[Event]] = {}
        self.time: int | None = None

    def take(self, changes: Changes) -> None:
        self.time = changes.time
        for id, visit in changes.visits.items():
            self.visits[id] = self.tracked[id] = decode(id, encode(visit))
        for id in changes.untracked:
            self.tracked.pop(id, None)
        for id, visit in self.tracked.items():
            assert changes.time is not None
            visit.seen = changes.lagging.get(id, changes.time)
        for key in changes.forgotten_ends:
            self.ends.pop(key, None)
        self.ends.update(changes.ends)
        for event, visit in changes.events:
            self.events.setdefault(visit.id, []).append(event)

    def state(self) -> SceneState:
        return SceneState(self.time, tuple(replace(visit) for visit in self.tracked.values()), dict(self.ends))


def outcome(visits: list[Visit]) -> dict[str, tuple[str, str, int, int, tuple[str, ...]]]:
    """What counts of finished visits, by id. One that goes on counts up to its last sight."""
    whole = {}
    for visit in visits:
        exit = visit.seen if visit.exit is None else visit.exit
        whole[visit.id] = (visit.object_id, visit.zone, visit.enter, exit, visit.cameras)
    assert len(whole) == len(visits), "two visits with one id"
    return whole


@given(scenes)
@settings(deadline=None, max_examples=500)
def test_visits_are_what_the_rules_say(codes: list[Code]) -> None:
    updates, _ = read(codes)
    tracker, ledger = SceneTracker("s", RULES), Ledger()
    for update in updates:
        tracker.apply(update)
        ledger.take(tracker.take_changes())

    wanted = expected(updates)
    assert outcome(list(ledger.visits.values())) == outcome(wanted)
    assert {visit.id for visit in tracker.visits()} == {visit.id for visit in wanted if visit.exit is None}
    for visit in wanted:
        whole = [Event.ENTERED] if visit.exit is None else [Event.ENTERED, Event.EXITED]
        assert ledger.events[visit.id] == whole


@given(scenes)
@settings(deadline=None, max_examples=500)
def test_visits_do_not_depend_on_batches_restarts_repeats_or_silence_between(codes: list[Code]) -> None:
    updates, then = read(codes)
    tracker, ledger = SceneTracker("s", RULES), Ledger()
    for index, (update, what) in enumerate(zip(updates, then, strict=True)):
        tracker.apply(update)
        if what == "repeat":
            for old in updates[: index + 1]:
                assert not tracker.apply(old)
        if what == "silence":
            tracker.fall_silent()
        if what in ("batch ends", "restart", "silence"):
            ledger.take(tracker.take_changes())
        if what == "restart":
            tracker = SceneTracker("s", RULES, ledger.state())
    tracker.fall_silent()
    ledger.take(tracker.take_changes())

    assert outcome(list(ledger.visits.values())) == outcome(expected(updates))
    assert all(visit.exit is not None for visit in ledger.visits.values())
    for events in ledger.events.values():
        assert events[0] is Event.ENTERED
        assert events[-1] is Event.EXITED
