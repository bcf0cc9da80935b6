"""Where, when, how strictly and how urgently the persons of a watchlist match."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from google.type.timeofday_pb2 import TimeOfDay
from hypothesis import given, settings
from hypothesis import strategies as st
from poi.v1 import common_pb2, match_pb2, poi_pb2, watchlist_pb2

from match_svc import hours, people
from match_svc.builder import Builder
from match_svc.calibration import shipped
from match_svc.people import Person
from match_svc.policy import Policy, Rules
from tests.support import embedding, similar, unit

LOW, MEDIUM, HIGH = common_pb2.SEVERITY_LOW, common_pb2.SEVERITY_MEDIUM, common_pb2.SEVERITY_HIGH
MONDAY, FRIDAY = 1, 5
DOOR, TILL, YARD = (f"stores/s/cameras/{name}" for name in ("door", "till", "yard"))
NOW = 1_790_000_000.0


def cosine(value: float) -> match_pb2.Threshold:
    return match_pb2.Threshold(cosine=value)


def rate(value: float) -> match_pb2.Threshold:
    return match_pb2.Threshold(false_match_rate=value)


def watchlist(watchlist_id: str, **content: object) -> watchlist_pb2.Watchlist:
    return watchlist_pb2.Watchlist(name=f"stores/s/watchlists/{watchlist_id}", **content)  # type: ignore[arg-type]


def poi(poi_id: str, *lists: str, threshold: float | None = None, severity: int = MEDIUM) -> poi_pb2.Poi:
    record = poi_pb2.Poi(name=f"stores/s/pois/{poi_id}", severity=severity)  # type: ignore[arg-type]
    record.watchlists.extend(f"stores/s/watchlists/{one}" for one in lists)
    if threshold is not None:
        record.threshold = threshold
    return record


def person(*lists: str, threshold: float | None = None, severity: int = MEDIUM) -> Person:
    return people.make(0, poi("p", *lists, threshold=threshold, severity=severity))[0]


def seen(camera: str = DOOR, at: datetime = datetime(2026, 11, 20, 9, tzinfo=UTC)) -> common_pb2.Detection:
    detection = common_pb2.Detection(camera=camera)
    detection.detect_time.FromDatetime(at)
    return detection


def span(start: str, end: str, *days: int) -> watchlist_pb2.WeeklyHours:
    first, last = (TimeOfDay(hours=int(text[:2]), minutes=int(text[3:])) for text in (start, end))
    return watchlist_pb2.WeeklyHours(days=days, start=first, end=last)


def threshold_of(policy: Policy, who: Person, where: common_pb2.Detection | None, aligned: bool = True) -> float | None:
    """What a face has to reach there; None where no face would do."""
    verdict = policy.judge(who, 1.0, aligned, where)
    return None if verdict is None else round(verdict.threshold, 4)


def policy(*lists: watchlist_pb2.Watchlist, store: float = 0.45, persons: int = 1, members: int = 1) -> Policy:
    return Rules(store, lists).policy(persons, {one.name.rpartition("/")[2]: members for one in lists})


def test_who_is_on_no_list_matches_everywhere_by_the_stores_threshold_or_their_own() -> None:
    either = policy(watchlist("thieves", cameras=[TILL]))

    assert threshold_of(either, person(), seen(YARD)) == 0.45
    assert threshold_of(either, person(threshold=0.7), seen(YARD)) == 0.7
    verdict = either.judge(person(severity=HIGH), 0.46, True, None)
    assert verdict is not None
    assert (verdict.severity, verdict.watchlists) == (HIGH, ())
    assert either.judge(person(), 0.44, True, None) is None


def test_a_list_holds_on_its_cameras_alone_and_an_override_by_the_first_that_names_the_camera() -> None:
    lists = policy(
        watchlist(
            "thieves",
            threshold=cosine(0.6),
            severity=LOW,
            cameras=[DOOR, TILL],
            overrides=[
                watchlist_pb2.CameraGroupOverride(cameras=[TILL, YARD], threshold=cosine(0.5)),
                watchlist_pb2.CameraGroupOverride(cameras=[TILL], threshold=cosine(0.3), severity=HIGH),
                watchlist_pb2.CameraGroupOverride(cameras=[DOOR], severity=HIGH),
            ],
        )
    )
    thief = person("thieves")

    assert threshold_of(lists, thief, seen(DOOR)) == 0.6
    assert threshold_of(lists, thief, seen(TILL)) == 0.5
    assert threshold_of(lists, thief, seen(YARD)) is None, "not one of its cameras, whatever an override says"
    assert threshold_of(lists, thief, None) == 0.6, "a face of no camera"
    severities = [verdict.severity for at in (DOOR, TILL) if (verdict := lists.judge(thief, 0.9, True, seen(at)))]
    assert severities == [HIGH, LOW]


def test_of_several_lists_the_lowest_threshold_counts_and_the_highest_severity_of_those_reached() -> None:
    both = policy(
        watchlist("a", threshold=cosine(0.6), severity=HIGH),
        watchlist("b", threshold=cosine(0.4), severity=LOW),
        watchlist("c", threshold=cosine(0.5)),
        watchlist("elsewhere", threshold=cosine(0.2), severity=HIGH, cameras=[YARD]),
    )
    listed = person("b", "c", "a", "elsewhere", "gone")

    def verdict(similarity: float) -> tuple[float, int, list[str]] | None:
        found = both.judge(listed, similarity, True, seen())
        return found and (
            round(found.threshold, 4),
            found.severity,
            [name.rpartition("/")[2] for name in found.watchlists],
        )

    assert verdict(0.39) is None
    assert verdict(0.45) == (0.4, LOW, ["b"])
    assert verdict(0.55) == (0.4, MEDIUM, ["c", "b"]), "c says nothing: the person's own"
    assert verdict(0.65) == (0.4, HIGH, ["a", "c", "b"])


def test_an_own_threshold_replaces_those_of_lists_and_not_their_places() -> None:
    lists = policy(watchlist("thieves", threshold=cosine(0.6), cameras=[DOOR]))
    thief = person("thieves", threshold=0.3)

    assert threshold_of(lists, thief, seen(DOOR)) == pytest.approx(0.3)
    assert threshold_of(lists, thief, seen(TILL)) is None


def test_a_list_without_a_threshold_has_the_stores() -> None:
    assert threshold_of(policy(watchlist("l"), store=0.7), person("l"), seen()) == pytest.approx(0.7)


def test_who_is_on_lists_that_are_not_there_matches_nowhere() -> None:
    nothing = policy()

    assert nothing.judge(person("gone"), 1.0, True, None) is None
    assert nothing.loosest(None, ("gone",)) == (np.inf, np.inf)


def test_a_rate_asks_for_more_of_larger_galleries_and_of_unaligned_probes() -> None:
    rules = Rules(rate(1e-3), [watchlist("l", threshold=rate(1e-4))])
    one, thousand = (rules.policy(persons, {"l": persons // 10}) for persons in (10, 10_000))

    for who in (person(), person("l")):
        for aligned in (True, False):
            small, large = (threshold_of(policy, who, None, aligned) for policy in (one, thousand))
            assert small is not None
            assert large is not None
            assert 0.2 < small < large - 0.1 < 0.8
        assert threshold_of(thousand, who, None, True) != threshold_of(thousand, who, None, False)
    calibration = shipped()
    reached = thousand.store.aligned
    assert calibration.false_match_rate(reached, True) * 10_000 == pytest.approx(1e-3, rel=1e-3)


def walls(zone: str, *moments: str) -> list[datetime]:
    return [datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo(zone)) for moment in moments]


def test_hours_across_midnight_belong_to_the_day_on_which_they_start() -> None:
    night = policy(watchlist("l", hours=[span("22:00", "06:00", FRIDAY)], time_zone="Europe/Berlin"))
    friday_21_59, friday_22, saturday_5_59, saturday_6, saturday_22, friday_3 = walls(
        "Europe/Berlin",
        "2026-11-20T21:59:59",
        "2026-11-20T22:00",
        "2026-11-21T05:59:59",
        "2026-11-21T06:00",
        "2026-11-21T22:00",
        "2026-11-20T03:00",
    )

    def applies(at: datetime) -> bool:
        return threshold_of(night, person("l"), seen(at=at.astimezone(UTC))) is not None

    assert [applies(at) for at in (friday_22, saturday_5_59)] == [True, True]
    assert [applies(at) for at in (friday_21_59, saturday_6, saturday_22, friday_3)] == [False] * 4


def test_hours_follow_the_clock_on_the_wall_when_summer_time_begins_and_ends() -> None:
    early = hours.parse([span("02:00", "03:00")], "Europe/Berlin")
    assert early is not None

    def open_minutes(day: datetime) -> int:
        start = int(day.timestamp())
        return sum(early.at(start + 60 * minute) for minute in range(25 * 60))

    ordinary, spring, autumn = (
        datetime(2026, month, day, tzinfo=ZoneInfo("Europe/Berlin")) for month, day in ((6, 1), (3, 29), (10, 25))
    )
    assert (open_minutes(ordinary), open_minutes(spring), open_minutes(autumn)) == (60, 0, 120)
    assert not early.at(10**15), "a moment that no calendar has"


def test_a_span_that_ends_when_it_starts_is_a_whole_day_and_one_to_24_00_ends_at_midnight() -> None:
    whole, evening = (
        hours.parse([one], "") for one in (span("08:00", "08:00", MONDAY), span("18:00", "24:00", MONDAY))
    )
    assert whole is not None
    assert evening is not None
    monday = int(datetime(2026, 11, 16, tzinfo=UTC).timestamp())

    assert [hour for hour in range(48) if whole.at(monday + 3600 * hour)] == list(range(8, 32))
    assert [hour for hour in range(48) if evening.at(monday + 3600 * hour)] == list(range(18, 24))


@settings(max_examples=60, deadline=None)
@given(
    days=st.sets(st.integers(1, 7)),
    start=st.integers(0, 24 * 60 - 1),
    end=st.integers(0, 24 * 60),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]),
    at=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
)
def test_hours_cover_what_walking_from_each_start_covers(
    days: set[int], start: int, end: int, zone: str, at: datetime
) -> None:
    first, last = ("{:02}:{:02}".format(*divmod(minute, 60)) for minute in (start, end))
    parsed = hours.parse([span(first, last, *days)], zone)
    assert parsed is not None
    moment = at.replace(tzinfo=UTC)
    wall = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)

    length = end - start if end > start else end - start + 24 * 60
    starts = [
        datetime.combine(wall.date(), datetime.min.time()) + timedelta(days=back, minutes=start) for back in (-1, 0)
    ]
    expected = any(
        first <= wall < first + timedelta(minutes=length) and (not days or first.isoweekday() in days)
        for first in starts
    )

    assert parsed.at(int(moment.timestamp())) == expected


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../UTC", "/etc/passwd", "Europe", "x" * 90])
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone"):
        hours.parse([], zone)


LISTS = st.lists(
    st.builds(
        watchlist,
        st.sampled_from("abcd"),
        threshold=st.one_of(
            st.none(), st.floats(0.25, 0.875, width=32).map(cosine), st.sampled_from([1e-6, 1e-3, 0.1]).map(rate)
        ),
        cameras=st.lists(st.sampled_from([DOOR, TILL]), max_size=2),
        overrides=st.lists(
            st.builds(
                watchlist_pb2.CameraGroupOverride,
                cameras=st.lists(st.sampled_from([DOOR, TILL]), min_size=1, max_size=2),
                threshold=st.one_of(st.none(), st.floats(0.25, 0.875, width=32).map(cosine)),
            ),
            max_size=2,
        ),
    ),
    max_size=4,
    unique_by=lambda one: one.name,
)
ON = st.lists(st.sampled_from("abcd"), max_size=3, unique=True)
OWN = st.one_of(st.none(), st.sampled_from([0.25, 0.5, 0.75]))


@settings(max_examples=60, deadline=None)
@given(
    lists=LISTS,
    store=st.one_of(st.floats(0.25, 0.875, width=32).map(cosine), st.just(rate(1e-3))),
    on=ON,
    own=OWN,
    persons=st.integers(1, 5000),
)
def test_no_context_asks_for_less_than_the_limit_of_a_persons_rows(
    lists: Iterable[watchlist_pb2.Watchlist],
    store: match_pb2.Threshold,
    on: list[str],
    own: float | None,
    persons: int,
) -> None:
    policy = Rules(store, lists).policy(persons, dict.fromkeys("abcd", persons))
    least = policy.loosest(own, tuple(on))
    for where in (None, seen(DOOR), seen(TILL), seen(YARD)):
        for aligned in (True, False):
            verdict = policy.judge(person(*on, threshold=own), 1.0, aligned, where)
            if verdict is not None:
                assert np.float32(verdict.threshold) >= np.float32(least[0 if aligned else 1])


Step = tuple[list[watchlist_pb2.Watchlist], match_pb2.Threshold, list[tuple[str, list[str] | None, float | None]]]


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            LISTS,
            st.sampled_from([cosine(0.4), rate(1e-2)]),
            st.lists(st.tuples(st.sampled_from(["p0", "p1", "p2", "p3"]), st.one_of(st.none(), ON), OWN), max_size=3),
        ),
        min_size=1,
        max_size=4,
    ),
    fold=st.booleans(),
)
def test_a_gallery_with_lists_finds_whom_its_policy_says_however_it_came_to_be(
    steps: list[Step],
    fold: bool,
) -> None:
    probe = unit(1)
    cosines = {"p0": 0.35, "p1": 0.45, "p2": 0.55, "p3": 0.75}
    builder, there = Builder("s", 0.45, 1_000_000), dict[str, poi_pb2.Poi]()
    for revision, (lists, store, changes) in enumerate(steps):
        changed: dict[str, poi_pb2.Poi | None] = {}
        for number, (poi_id, on, own) in enumerate(changes):
            there.pop(poi_id, None)
            changed[poi_id] = None
            if on is not None:
                record = poi(poi_id, *on, threshold=own)
                face = embedding(similar(probe, cosines[poi_id], 10 + number), alignment=common_pb2.ALIGNMENT_ALIGNED)
                record.references.add(name=f"{record.name}/references/1", embeddings=[face])
                changed[poi_id] = there[poi_id] = record
        rules = Rules(store, lists)
        gallery = builder.apply(changed, rules, revision)
        if fold:
            gallery = builder.install(builder.fold().run())

        members = {
            name: sum(f"stores/s/watchlists/{name}" in one.watchlists for one in there.values()) for name in "abcd"
        }
        policy = rules.policy(len(there), members)
        for where in (seen(DOOR), seen(TILL), seen(YARD)):
            for aligned in (True, False):
                expected = {
                    poi_id: verdict
                    for poi_id, record in there.items()
                    if (verdict := policy.judge(people.make(0, record)[0], cosines[poi_id] + 1e-6, aligned, where))
                    and abs(cosines[poi_id] - verdict.threshold) > 1e-4
                }
                (found,) = gallery.search(probe[None], np.array([aligned]), 10, NOW, [where])
                clear = [match for match in found if abs(match.similarity - match.threshold) > 1e-4]
                assert {match.person.poi_id for match in clear} == set(expected)
                for match in clear:
                    verdict = expected[match.person.poi_id]
                    assert (match.threshold, match.severity, match.watchlists) == verdict
                known = [tuple(match.person for match in found)]
                (verified,) = gallery.verify(probe[None], np.array([aligned]), known, 10, NOW, [where])
                for again in (verified, gallery.still(found, where)):
                    of_clear = {match.person: match.watchlists for match in again if match.person.poi_id in expected}
                    assert of_clear == {match.person: match.watchlists for match in clear}
