"""The tracker against a plain statement of the rules that looks at all updates at once."""

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from history_svc.region.model import Event, SeenObject, Update, Visit, decode, encode
from history_svc.region.tracker import Changes, Presence, Rules, SceneState, SceneTracker

RULES = Rules(gap=3, silence=6, entered_age=12)  # ms: small numbers meet each other often


STEPS = [1, 1, 0, 1, 2, 2, 3, 4, 6, 7, -1, -3]
NEXT = ["go on", "batch ends", "restart", "repeat", "silence"]
SCOPES = [None, None, "x", "y"]
CAMERAS: list[tuple[str, ...]] = [(), ("c1",), ("c2",), ("c1", "c2"), ("c2", "c1")]
PEOPLE = 2 * 2 * 2 * 18 * 18 * len(CAMERAS)

# Few draws of plain numbers, which are taken apart: drawing each fact by itself took 100 ms an example.
Code = tuple[int, int, int]
scenes = st.lists(
    st.tuples(
        st.integers(0, len(STEPS) * len(NEXT) * len(SCOPES) - 1), st.integers(0, PEOPLE - 1), st.integers(0, PEOPLE - 1)
    ),
    min_size=1,
    max_size=25,
)


def read(codes: list[Code]) -> tuple[list[Update], list[str]]:
    """Updates of a small scene and its zones, some of which repeat or come too late, and what happens after each."""
    updates, then, time = [], [], 100
    for code, *people in codes:
        code, scope = divmod(code, len(SCOPES))
        step, following = divmod(code, len(NEXT))
        time += STEPS[step]
        persons = [_person(object_id, code, time) for object_id, code in zip("AB", people, strict=True)]
        updates.append(Update(time, tuple(person for person in persons if person is not None), SCOPES[scope]))
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
    tracks = tuple(f"cam:{camera}:1" for camera in CAMERAS[-1 - cameras])
    return SeenObject(object_id, claims, CAMERAS[cameras], tracks) if code else None


@dataclass
class Saying:
    """What an update says of a person and a zone, where it counts."""

    time: int
    newest: int
    """The newest time of all updates so far."""
    whole: int | None
    """The last update of the whole scene before this one."""
    person: SeenObject | None
    """None: nobody saw them anywhere."""
    inside: bool
    zone_only: bool


def expected(updates: list[Update]) -> list[Visit]:
    """The visits as the rules say; those that go on have no exit."""
    presences = {(o.object_id, zone) for update in updates for o in update.objects for zone in o.zones}
    return [visit for presence in sorted(presences) for visit in _visits_of(_sayings(presence, updates), presence)]


def _sayings(presence: Presence, updates: list[Update]) -> list[Saying]:
    object_id, zone = presence
    found: list[Saying] = []
    whole = newest = None
    known: tuple[int, bool] | None = None  # when they were last seen, and whether inside
    for update in updates:
        time = update.time
        ahead = max(time, newest or time)
        if (whole is not None and time <= whole) or time < ahead - RULES.entered_age:
            continue
        newest = ahead
        person = next((o for o in update.objects if o.object_id == object_id), None)
        inside = person is not None and zone in person.zones
        concerns = update.zone is None or (update.zone == zone and person is not None)
        # At the same moment an exit counts more than a sight.
        if concerns and (person is None or known is None or time > known[0] or (time == known[0] and known[1])):
            found.append(Saying(time, newest, whole, person, inside, update.zone is not None))
            if person is not None:
                known = (time, inside)
        if update.zone is None:
            whole = time
    return found


def _visits_of(sayings: list[Saying], presence: Presence) -> list[Visit]:
    object_id, zone = presence
    visits: list[Visit] = []
    for index, saying in enumerate(sayings):
        if saying.person is None or not saying.inside:
            continue
        now = saying.time
        visit = visits[-1] if visits and visits[-1].exit is None else None
        if visit is None:
            claimed = saying.person.zones[zone]
            told = [earlier.time for earlier in sayings[:index] if earlier.zone_only and not earlier.inside]
            believed = (
                claimed is not None
                and saying.newest - RULES.entered_age <= claimed <= now
                and not any(claimed <= (earlier.exit or 0) for earlier in visits)
                and not any(claimed <= exit for exit in told)
            )
            visit = Visit("s", zone, object_id, enter=claimed if believed and claimed else now, seen=now)
            visits.append(visit)
        visit.seen = now
        visit.cameras = tuple(dict.fromkeys((*visit.cameras, *saying.person.cameras)))
        visit.tracks = tuple(dict.fromkeys((*visit.tracks, *saying.person.tracks)))
        visit.exit = _exit(now, sayings[index + 1 :])
    return visits


def _exit(last: int, following: list[Saying]) -> int | None:
    """When the visit with this sight ends before its next one; None if it does not."""
    for saying in following:
        away = saying.time - last
        if saying.person is not None:
            missed = saying.whole is not None and (last < saying.whole or away > RULES.silence)
            if missed and away >= RULES.gap:
                return last
            return None if saying.inside else saying.time
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
        self.latest: int | None = None

    def take(self, changes: Changes) -> None:
        self.time, self.latest = changes.time, changes.latest
        for id, visit in changes.visits.items():
            self.visits[id] = self.tracked[id] = decode(id, encode(visit))
        for id in changes.untracked:
            self.tracked.pop(id, None)
        for id, visit in self.tracked.items():
            visit.seen = changes.lagging.get(id, changes.time or 0)
        for key in changes.forgotten_ends:
            self.ends.pop(key, None)
        self.ends.update(changes.ends)
        for event, visit in changes.events:
            self.events.setdefault(visit.id, []).append(event)

    def state(self) -> SceneState:
        visits = tuple(replace(visit) for visit in self.tracked.values())
        return SceneState(self.time, self.latest, visits, dict(self.ends))


def outcome(visits: list[Visit]) -> dict[str, tuple[str, str, int, int, tuple[str, ...], tuple[str, ...]]]:
    """What counts of finished visits, by id. One that goes on counts up to its last sight."""
    whole = {}
    for visit in visits:
        exit = visit.seen if visit.exit is None else visit.exit
        whole[visit.id] = (visit.object_id, visit.zone, visit.enter, exit, visit.cameras, visit.tracks)
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
                assert not tracker.apply(old) or old.zone is not None
        if what == "silence":
            tracker.fall_silent()
        if what in ("batch ends", "restart", "silence"):
            ledger.take(tracker.take_changes())
        if what == "restart":
            tracker = SceneTracker("s", RULES, ledger.state())
    tracker.fall_silent()
    ledger.take(tracker.take_changes())

    assert outcome(list(ledger.visits.values())) == outcome(expected(updates))
    assert tracker.time is None or not tracker.visits()
    for id, events in ledger.events.items():
        assert events[0] is Event.ENTERED
        assert events[-1] is (Event.ENTERED if ledger.visits[id].exit is None else Event.EXITED)
