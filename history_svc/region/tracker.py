"""The rules that turn a scene's updates into visits. Plain and synchronous: no clock, no Redis, no gRPC.

A person's stay in a zone
- begins when the scene controller says (`entered`), where that can be true, else at the first update with them in it;
- ends at the first update that has them elsewhere in the scene;
- ends at its last sight when they vanish: not in any update for `gap`. Who is back sooner goes on with it.

An update of the whole scene tells of everybody: who is not in it is not in the scene. An update of one zone tells only
of the people in it, that they are in the zone or have left it, and is one more sight or exit of each; nobody is missed
in it. Such updates come only when something happens: a scene of which nothing else is heard never falls silent.

The scene may fall silent, too. For up to `silence` between two updates nobody is missed; a longer pause ends every
visit at its last sight. The caller, who has a clock, may say so before the next update comes (`fall_silent`). If they
turn up late all the same, what was closed is reopened or corrected: visits depend on the updates alone and not on
when they arrive.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from history_svc.region.model import Event, SeenObject, Update, Visit

Presence = tuple[str, str]
"""(object id, zone)"""

_MAX_TRACKS = 100  # of a visit: a camera that loses somebody again and again makes no end of them


@dataclass(frozen=True, slots=True)
class Rules:
    """Spans of event time, in milliseconds."""

    gap: int = 3_000
    silence: int = 10_000
    entered_age: int = 3_600_000
    """An `entered` that lies further back than this is not believed."""


@dataclass(frozen=True, slots=True)
class SceneState:
    """All that the rules need to know of a scene's past."""

    time: int | None = None
    """Of the last update of the whole scene."""
    latest: int | None = None
    """Of the newest update, of the whole scene or of a zone."""
    visits: tuple[Visit, ...] = ()
    """Those that go on, and those that silence closed and the next update may reopen (they have an exit)."""
    ends: Mapping[Presence, int] = field(default_factory=dict)
    """The last exit of a person from a zone, for as long as an update or a believable `entered` could lie before it."""


@dataclass(slots=True)
class Changes:
    """What happened since the last `take_changes`, all of it to be made durable in one step."""

    time: int | None
    """Of the last update of the whole scene."""
    lagging: dict[str, int]
    """Last sights of the tracked visits that are not from that update, by visit id."""
    latest: int | None = None
    """Of the newest update."""
    events: list[tuple[Event, Visit]] = field(default_factory=list)
    """In order, with the visit as it was just after the event."""
    visits: dict[str, Visit] = field(default_factory=dict)
    """Those that are new or have changed in more than their last sight."""
    untracked: set[str] = field(default_factory=set)
    """Ids of visits that later updates cannot change any more."""
    forgotten_ends: set[Presence] = field(default_factory=set)
    ends: dict[Presence, int] = field(default_factory=dict)
    """Counts where an end is forgotten and set again."""


class SceneTracker:
    """One scene's visits. Feed it updates, then take what changed."""

    def __init__(self, scene: str, rules: Rules, state: SceneState | None = None) -> None:
        state = state or SceneState()
        self.scene = scene
        self.time = state.time
        self.latest = state.latest
        self._rules = rules
        self._tracked: dict[Presence, Visit] = {(visit.object_id, visit.zone): visit for visit in state.visits}
        # In the order of the exits, nearly: the oldest are dropped from the front.
        self._ends = dict(sorted(state.ends.items(), key=lambda item: item[1]))
        self._changes = Changes(time=None, lagging={})

    def apply(self, update: Update) -> bool:
        """Take one update in. One that comes too late to tell anything changes nothing, and the answer is False."""
        before, now = self.time, update.time
        latest = now if self.latest is None else max(now, self.latest)
        # Of what lies further back than the ends are kept, nobody could tell whether it is told again.
        if (before is not None and now <= before) or now < latest - self._rules.entered_age:
            return False
        self.latest = latest
        if update.zone is None:
            self.time = now
        present: dict[Presence, int | None] = {}
        people: dict[str, SeenObject] = {}
        for seen in update.objects:
            known = people.get(seen.object_id)
            people[seen.object_id] = seen if known is None else _together(known, seen)
            for zone, entered in seen.zones.items():
                if update.zone not in (None, zone):
                    continue
                key = (seen.object_id, zone)
                present[key] = entered if present.get(key) is None else present[key]

        gap, silence = self._rules.gap, self._rules.silence
        for key, visit in self._told_of(update, people):
            absence = now - visit.seen
            # Nobody is missed in a pause between two updates; only an update without them counts.
            unbroken = absence < gap or before is None or (visit.seen >= before and absence <= silence)
            if not unbroken:
                self._leave(key, visit, visit.seen)
            elif key in present:
                self._stay(key, visit, now, people[key[0]])
            elif key[0] in people:
                self._leave(key, visit, now)
            elif absence >= gap:
                self._leave(key, visit, visit.seen)
        for key, entered in present.items():
            # Whose exit is known to be no earlier was told of late.
            if key not in self._tracked and self._ends.get(key, now - 1) < now:
                self._enter(key, entered, now, people[key[0]])
        if update.zone is not None:
            self._note_exits(update.zone, people, now)
        self._forget(latest - self._rules.entered_age)
        return True

    def fall_silent(self) -> None:
        """Close every visit at its last sight: the scene's updates have stopped. Late ones reopen what they must."""
        if self.time is None:
            return
        for key, visit in self._tracked.items():
            if visit.exit is None:
                visit.exit = visit.seen
                self._end(key, visit.seen)
                self._tell(Event.EXITED, visit)

    def visits(self) -> list[Visit]:
        """The visits that go on."""
        return [visit for visit in self._tracked.values() if visit.exit is None]

    def take_changes(self) -> Changes:
        """What happened since the last call."""
        changes, self._changes = self._changes, Changes(time=None, lagging={})
        changes.time, changes.latest = self.time, self.latest
        changes.lagging = {visit.id: visit.seen for visit in self._tracked.values() if visit.seen != self.time}
        return changes

    def _told_of(self, update: Update, people: Collection[str]) -> list[tuple[Presence, Visit]]:
        """The visits that the update tells something new of."""
        return [
            (key, visit)
            for key, visit in self._tracked.items()
            # A later sight is known where updates of the scene and of its zones overtake each other.
            if visit.seen <= update.time and (update.zone is None or (key[1] == update.zone and key[0] in people))
        ]

    def _note_exits(self, zone: str, people: Iterable[str], now: int) -> None:
        """Remember who is out, also of those who were not known to be in: their entry may be told of late."""
        for object_id in people:
            key = (object_id, zone)
            if key not in self._tracked and self._ends.get(key, now - 1) < now:
                self._end(key, now)

    def _enter(self, key: Presence, entered: int | None, now: int, seen: SeenObject) -> None:
        object_id, zone = key
        last_end = self._ends.get(key)
        sane = (
            entered is not None
            and self.latest is not None
            and self.latest - self._rules.entered_age <= entered <= now
            # At the very end of a zero-length visit the id would be the same, too.
            and (last_end is None or entered > last_end)
        )
        enter = entered if sane and entered is not None else now
        cameras, tracks = _union((), seen.cameras), _union((), seen.tracks)[-_MAX_TRACKS:]
        visit = Visit(self.scene, zone, object_id, enter=enter, seen=now, cameras=cameras, tracks=tracks)
        self._tracked[key] = visit
        self._tell(Event.ENTERED, visit)

    def _stay(self, key: Presence, visit: Visit, now: int, seen: SeenObject) -> None:
        visit.seen = now
        cameras = _union(visit.cameras, seen.cameras)
        tracks = _union(visit.tracks, seen.tracks)[-_MAX_TRACKS:]
        if (cameras, tracks) != (visit.cameras, visit.tracks):
            visit.cameras, visit.tracks = cameras, tracks
            self._changes.visits[visit.id] = visit
        if visit.exit is not None:  # silence closed it, wrongly as we see now
            visit.exit = None
            self._tell(Event.ENTERED, visit)

    def _leave(self, key: Presence, visit: Visit, when: int) -> None:
        del self._tracked[key]
        self._changes.untracked.add(visit.id)
        if visit.exit != when:  # else silence has told it already
            visit.exit = when
            self._end(key, when)
            self._tell(Event.EXITED, visit)

    def _end(self, key: Presence, when: int) -> None:
        self._ends.pop(key, None)
        self._ends[key] = when
        self._changes.ends[key] = when

    def _forget(self, before: int) -> None:
        """Drop the ends that no believable `entered` can contradict any more."""
        while self._ends:
            key, end = next(iter(self._ends.items()))
            if end >= before:
                return
            del self._ends[key]
            self._changes.ends.pop(key, None)
            self._changes.forgotten_ends.add(key)

    def _tell(self, event: Event, visit: Visit) -> None:
        self._changes.visits[visit.id] = visit
        self._changes.events.append((event, replace(visit)))


def _together(known: SeenObject, seen: SeenObject) -> SeenObject:
    """Who is listed twice is one person, seen by all who saw them."""
    return replace(seen, cameras=_union(known.cameras, seen.cameras), tracks=_union(known.tracks, seen.tracks))


def _union(known: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return known if known == more else tuple(dict.fromkeys((*known, *more)))
