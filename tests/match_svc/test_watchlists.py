"""WatchlistService through its contract, and what lists and rates do to matching."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis.asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from google.type.timeofday_pb2 import TimeOfDay
from poi.v1 import common_pb2, match_pb2, poi_pb2, watchlist_pb2

from match_svc.calibration import shipped
from match_svc.matching import Matcher
from tests.match_svc.support import STORE, Replica, becomes, refused, replica
from tests.support import detection, similar, unit
from tests.support.detections import START

WOMAN, MAN = unit(1), unit(2)
ALIGNED, UNALIGNED = common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_UNALIGNED
LOW, MEDIUM, HIGH = common_pb2.SEVERITY_LOW, common_pb2.SEVERITY_MEDIUM, common_pb2.SEVERITY_HIGH
DOOR, TILL = (f"{STORE}/cameras/{name}" for name in ("door", "till"))
SETTINGS = f"{STORE}/matchSettings"


def name_of(watchlist_id: str) -> str:
    return f"{STORE}/watchlists/{watchlist_id}"


async def make(one: Replica, watchlist_id: str, **content: Any) -> watchlist_pb2.Watchlist:
    wanted = watchlist_pb2.Watchlist(**{"display_name": watchlist_id, **content})
    return await one.watchlists.CreateWatchlist(
        watchlist_pb2.CreateWatchlistRequest(parent=STORE, watchlist_id=watchlist_id, watchlist=wanted)
    )


async def update(one: Replica, watchlist_id: str, *paths: str, etag: str = "", **content: Any) -> Any:
    wanted = watchlist_pb2.Watchlist(name=name_of(watchlist_id), etag=etag, **content)
    return await one.watchlists.UpdateWatchlist(
        watchlist_pb2.UpdateWatchlistRequest(watchlist=wanted, update_mask=FieldMask(paths=paths))
    )


async def get(one: Replica, watchlist_id: str) -> watchlist_pb2.Watchlist:
    return await one.watchlists.GetWatchlist(watchlist_pb2.GetWatchlistRequest(name=name_of(watchlist_id)))


async def delete(one: Replica, watchlist_id: str, etag: str = "") -> None:
    await one.watchlists.DeleteWatchlist(watchlist_pb2.DeleteWatchlistRequest(name=name_of(watchlist_id), etag=etag))


async def relist(one: Replica, poi_id: str, *lists: str, etag: str = "") -> poi_pb2.Poi:
    """Put a person on these lists and no other."""
    wanted = poi_pb2.Poi(name=f"{STORE}/pois/{poi_id}", watchlists=map(name_of, lists), etag=etag)
    return await one.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=wanted, update_mask=FieldMask(paths=["watchlists"])))


async def tune(one: Replica, *paths: str, **content: Any) -> match_pb2.MatchSettings:
    return await one.match.UpdateMatchSettings(
        match_pb2.UpdateMatchSettingsRequest(
            match_settings=match_pb2.MatchSettings(name=SETTINGS, **content), update_mask=FieldMask(paths=paths)
        )
    )


def cosine(value: float) -> match_pb2.Threshold:
    return match_pb2.Threshold(cosine=value)


def rate(value: float) -> match_pb2.Threshold:
    return match_pb2.Threshold(false_match_rate=value)


def hours(start: int, end: int, *days: int) -> watchlist_pb2.WeeklyHours:
    return watchlist_pb2.WeeklyHours(days=days, start=TimeOfDay(hours=start), end=TimeOfDay(hours=end))


async def on(one: Replica, camera: str, *, at: float = 0.0, face: Any = WOMAN, track: str = "1") -> list[str]:
    """Who is seen on a camera, so many seconds after the start of the tests' time."""
    (found,) = await one.seen(detection(face, camera=camera, at=at, object_id=track, alignment=ALIGNED))
    return [poi_id for poi_id, _ in found]


async def test_a_list_is_kept_as_it_was_made_and_changed(replica: Replica) -> None:
    content = {
        "display_name": "Thieves",
        "purpose": "Documented theft",
        "threshold": rate(1e-5),
        "severity": HIGH,
        "cameras": [DOOR],
        "hours": [hours(22, 6, 5)],
        "time_zone": "Europe/Berlin",
        "overrides": [watchlist_pb2.CameraGroupOverride(cameras=[TILL], threshold=cosine(0.6))],
    }
    made = await make(replica, "thieves", **content, retention={"seconds": 86400})

    assert await get(replica, "thieves") == made
    assert (made.name, made.display_name, made.poi_count) == (name_of("thieves"), "Thieves", 0)
    assert made.create_time == made.update_time
    assert made.HasField("create_time")
    expected = shipped().cosine(1e-5, True)[0]
    assert made.effective.aligned == pytest.approx(expected)
    assert made.effective.persons == 1
    assert (await refused(make(replica, "thieves")))[0] == "ALREADY_EXISTS"

    changed = await update(replica, "thieves", "cameras", "severity", etag=made.etag, severity=LOW)

    assert (list(changed.cameras), changed.severity, changed.purpose) == ([], LOW, "Documented theft")
    assert changed.etag != made.etag
    assert changed.update_time.ToNanoseconds() > made.update_time.ToNanoseconds()
    assert await update(replica, "thieves", display_name="T.") == await get(replica, "thieves")
    all_fields = await update(replica, "thieves", "*", display_name="New")
    assert [field.name for field, _ in all_fields.ListFields()] == [
        "name",
        "display_name",
        "effective",
        "create_time",
        "update_time",
        "etag",
    ]

    await delete(replica, "thieves")
    assert (await refused(get(replica, "thieves")))[0] == "NOT_FOUND"
    assert (await refused(delete(replica, "thieves")))[0] == "NOT_FOUND"


async def test_somebody_elses_change_is_not_overwritten(replica: Replica) -> None:
    made = await make(replica, "l")
    await update(replica, "l", severity=HIGH)

    assert (await refused(update(replica, "l", etag=made.etag, severity=LOW)))[:2] == ("ABORTED", "ETAG_MISMATCH")
    assert (await refused(delete(replica, "l", etag=made.etag)))[:2] == ("ABORTED", "ETAG_MISMATCH")
    assert (await get(replica, "l")).severity == HIGH


async def test_lists_come_in_pages_by_id(replica: Replica) -> None:
    for watchlist_id in ("c", "a", "b"):
        await make(replica, watchlist_id)
    request = watchlist_pb2.ListWatchlistsRequest(parent=STORE, page_size=2)

    first = await replica.watchlists.ListWatchlists(request)
    request.page_token = first.next_page_token
    second = await replica.watchlists.ListWatchlists(request)

    assert [one.display_name for one in (*first.watchlists, *second.watchlists)] == ["a", "b", "c"]
    assert second.next_page_token == ""
    elsewhere = await replica.watchlists.ListWatchlists(watchlist_pb2.ListWatchlistsRequest(parent="stores/other"))
    assert not elsewhere.watchlists


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"display_name": " "}, "watchlist.display_name"),
        ({"cameras": [DOOR, "stores/other/cameras/c"]}, "watchlist.cameras[1]"),
        ({"cameras": ["door"]}, "watchlist.cameras[0]"),
        (
            {"overrides": [watchlist_pb2.CameraGroupOverride(cameras=["till"])]},
            "watchlist.overrides[0].cameras[0]",
        ),
        ({"time_zone": "Europe/Atlantis"}, "watchlist.time_zone"),
        ({"hours": [hours(8, 9), hours(8, 25)]}, "watchlist.hours[1]"),
        ({"hours": [hours(24, 6)]}, "watchlist.hours[0]"),
        ({"hours": [watchlist_pb2.WeeklyHours(start=TimeOfDay(hours=8))]}, "watchlist.hours[0].end"),
        ({"threshold": match_pb2.Threshold()}, "watchlist.threshold.kind"),
        ({"threshold": rate(0.5)}, "watchlist.threshold.false_match_rate"),
    ],
)
async def test_a_list_that_makes_no_sense_is_refused(replica: Replica, content: Any, field: str) -> None:
    code, _, fields = await refused(make(replica, "l", **content))

    assert (code, fields) == ("INVALID_ARGUMENT", {field})


async def test_a_field_that_cannot_be_changed_is_refused(replica: Replica) -> None:
    await make(replica, "l")

    assert await refused(update(replica, "l", "poi_count")) == (
        "INVALID_ARGUMENT",
        "INVALID_UPDATE_MASK",
        {"update_mask"},
    )


async def test_a_person_is_put_on_lists_that_there_are_and_counted(replica: Replica) -> None:
    await make(replica, "a")
    await make(replica, "b")
    made = await replica.enrol("woman", WOMAN, watchlists=[name_of("a")])
    assert list(made.watchlists) == [name_of("a")]

    async def counts() -> tuple[int, int]:
        return (await get(replica, "a")).poi_count, (await get(replica, "b")).poi_count

    assert await counts() == (1, 0)
    assert (await refused(replica.enrol("man", MAN, watchlists=[name_of("gone")])))[0] == "NOT_FOUND"
    assert (await refused(relist(replica, "woman", "a", "gone")))[0] == "NOT_FOUND"
    other = poi_pb2.Poi(name=made.name, watchlists=["stores/other/watchlists/a"])
    assert (await refused(replica.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=other))))[2] == {"poi.watchlists"}
    assert await counts() == (1, 0), "who was refused is not counted"

    await relist(replica, "woman", "a", "b")
    assert await counts() == (1, 1)
    assert (await refused(delete(replica, "a")))[:2] == ("FAILED_PRECONDITION", "WATCHLIST_NOT_EMPTY")
    await relist(replica, "woman", "b")
    await delete(replica, "a")
    assert (await get(replica, "b")).poi_count == 1
    await replica.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=made.name))
    await delete(replica, "b")


async def test_a_list_is_never_deleted_under_a_person_who_is_put_on_it_at_that_moment(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    outcomes = set()
    for number in range(12):
        await make(replica, f"l{number}")
        put, deleted = await asyncio.gather(
            relist(replica, "woman", f"l{number}"), delete(replica, f"l{number}"), return_exceptions=True
        )
        outcomes.add((isinstance(put, Exception), isinstance(deleted, Exception)))

    assert outcomes <= {(True, False), (False, True)}
    now = await replica.pois.GetPoi(poi_pb2.GetPoiRequest(name=f"{STORE}/pois/woman"))
    for watchlist in now.watchlists:
        assert (await get(replica, watchlist.rpartition("/")[2])).poi_count == 1


async def test_a_list_ends_the_stay_of_who_is_put_on_it_without_an_end(replica: Replica) -> None:
    await make(replica, "short", retention={"seconds": 3600})
    await make(replica, "long", retention={"seconds": 7200})
    made = await replica.enrol("woman", WOMAN)
    ended = made.HasField("expire_time")

    changed = await relist(replica, "woman", "long", "short")

    seconds = changed.expire_time.seconds - changed.create_time.seconds
    assert seconds == (made.expire_time.seconds - made.create_time.seconds if ended else 3600)


async def test_a_person_on_a_list_matches_on_its_cameras_in_its_hours_with_its_severity(replica: Replica) -> None:
    """The tests' time starts on Friday 2026-11-20 at 09:00 UTC, which is 10:00 in Berlin."""
    assert (START.weekday(), START.hour) == (4, 9)
    await make(replica, "late", cameras=[DOOR], hours=[hours(10, 11, 5)], time_zone="Europe/Berlin", severity=LOW)
    await make(replica, "till", cameras=[TILL], severity=HIGH)
    await replica.enrol("woman", WOMAN, watchlists=[name_of("late"), name_of("till")])

    assert await on(replica, "door") == ["woman"]
    assert await on(replica, "door", at=-1, track="2") == [], "09:59 in Berlin"
    assert await on(replica, "door", at=3599) == ["woman"]
    assert await on(replica, "door", at=3600) == [], "the same track, an hour later by the detection's time"
    assert await on(replica, "door", at=86400) == [], "Saturday"
    assert await on(replica, "till", at=86400) == ["woman"]
    assert await on(replica, "yard") == []
    (answer,) = await replica.stream([detection(WOMAN, camera=camera, object_id="9") for camera in ("door", "till")])
    matches = {result.detection_id: result.matches[0] for result in answer.results}
    told = [(match.severity, list(match.watchlists)) for match in matches.values()]
    assert told == [(LOW, [name_of("late")]), (HIGH, [name_of("till")])]
    assert await replica.who(WOMAN) == ["woman"], "a face of no camera"
    (match,) = await replica.matches(WOMAN)
    assert list(match.watchlists) == [name_of("till"), name_of("late")], "the highest severity first"


async def test_a_track_that_is_known_does_not_match_where_the_list_does_not_apply(replica: Replica) -> None:
    """Decisions remember whom a track was recognised as; they do not remember that it was a match."""
    await make(replica, "till", cameras=[TILL])
    await make(replica, "morning", hours=[hours(9, 10)])
    await replica.enrol("woman", WOMAN, watchlists=[name_of("till")])
    await replica.enrol("man", MAN, watchlists=[name_of("morning")])

    for at in range(3):
        assert await on(replica, "till", at=at) == ["woman"]
        assert await on(replica, "door", at=at) == []
        assert await on(replica, "door", at=3597 + at, face=MAN, track="2") == ["man"]
    assert await on(replica, "door", at=3601, face=MAN, track="2") == []
    assert await on(replica, "door", at=3599, face=MAN, track="2") == ["man"]


async def test_who_is_moved_off_a_list_while_a_stream_goes_on_no_longer_matches_by_it(redis_url: str) -> None:
    async with replica(redis_url) as one, replica(redis_url) as other:
        await make(one, "here", severity=HIGH)
        await make(one, "elsewhere", cameras=[TILL])
        await one.enrol("woman", WOMAN, watchlists=[name_of("here")])
        await becomes(["woman"], lambda: other.who(WOMAN))
        batches: asyncio.Queue[float | None] = asyncio.Queue()

        async def requests() -> AsyncIterator[match_pb2.MatchDetectionsRequest]:
            while (at := await batches.get()) is not None:
                yield match_pb2.MatchDetectionsRequest(
                    parent=STORE, detections=[detection(WOMAN, camera="door", at=at, alignment=ALIGNED)]
                )

        answers = aiter(other.match.MatchDetections(requests()))

        async def at(seconds: float) -> Sequence[match_pb2.Match]:
            batches.put_nowait(seconds)
            response = await anext(answers)
            assert not response.errors
            return response.results[0].matches if response.results else ()

        assert [match.severity for match in await at(0)] == [HIGH]
        await relist(one, "woman", "elsewhere")
        assert not await at(1), "answered means that every replica has it"
        await relist(one, "woman")
        assert [(match.severity, len(match.watchlists)) for match in await at(2)] == [(MEDIUM, 0)]
        await relist(one, "woman", "here")
        await update(one, "here", severity=LOW)
        assert [match.severity for match in await at(3)] == [LOW]
        await update(one, "here", threshold=cosine(0.99), cameras=[TILL])
        assert not await at(4)
        await update(one, "here", "cameras")
        assert [round(match.threshold, 3) for match in await at(5)] == [0.99]
        expired = poi_pb2.Poi(name=f"{STORE}/pois/woman")
        expired.expire_time.seconds = 1
        await one.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=expired))
        assert not await at(6)
        batches.put_nowait(None)


async def test_a_change_of_a_list_is_in_effect_on_every_replica_when_it_is_answered(redis_url: str) -> None:
    async with replica(redis_url) as one, replica(redis_url) as two, replica(redis_url) as three:
        everywhere = (one, two, three)
        await make(one, "l")
        await one.enrol("woman", WOMAN, watchlists=[name_of("l")])
        face = similar(WOMAN, 0.6, 5)
        for number in range(5):
            await becomes(["woman"], lambda: three.who(face))
            call = two.watchlists.UpdateWatchlist(
                watchlist_pb2.UpdateWatchlistRequest(
                    watchlist=watchlist_pb2.Watchlist(name=name_of("l"), threshold=cosine(0.7 + number / 100))
                )
            )
            await call
            metadata = dict(await call.trailing_metadata())
            assert metadata["poi-replicas-confirmed"] == "3"
            assert [await at.who(face) for at in everywhere] == [[], [], []]
            await update(three, "l", "threshold")
            assert [await at.who(face) for at in everywhere] == [["woman"]] * 3


async def test_lists_and_rates_survive_a_restart_of_all(redis_url: str) -> None:
    async with replica(redis_url) as one:
        await make(one, "till", cameras=[TILL], threshold=rate(1e-4))
        await one.enrol("woman", WOMAN, watchlists=[name_of("till")])
        await tune(one, target_false_match_rate=1e-3)
        before = (
            await get(one, "till"),
            await one.match.GetMatchSettings(match_pb2.GetMatchSettingsRequest(name=SETTINGS)),
        )

    async with replica(redis_url) as again:
        assert await on(again, "door") == []
        assert await on(again, "till") == ["woman"]
        settings = await again.match.GetMatchSettings(match_pb2.GetMatchSettingsRequest(name=SETTINGS))
        assert (await get(again, "till"), settings) == before


async def test_a_search_that_ends_after_a_person_left_the_list_does_not_report_them(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the gallery is so large that a search takes longer than the change."""
    async with replica(redis_url) as one:
        await make(one, "here")
        await make(one, "elsewhere", cameras=[TILL])
        await one.enrol("woman", WOMAN, watchlists=[name_of("here")])
        searching, go_on = asyncio.Event(), asyncio.Event()
        search = Matcher._search

        async def slow(self: Matcher, *arguments: Any) -> Any:
            found = await search(self, *arguments)
            searching.set()
            await go_on.wait()
            return found

        monkeypatch.setattr(Matcher, "_search", slow)
        seen = asyncio.create_task(on(one, "door"))
        await searching.wait()
        await relist(one, "woman", "elsewhere")
        go_on.set()

        assert await seen == []


async def test_a_damaged_list_disturbs_no_other(redis_url: str) -> None:
    async with replica(redis_url) as one, redis.asyncio.Redis.from_url(redis_url) as client:
        await make(one, "good", cameras=[TILL])
        await client.hset("poi:{gallery}:watchlists:store-1", "bad", b"7:\xff\xff\xff")
        await one.enrol("woman", WOMAN, watchlists=[name_of("good")])
        await update(one, "good", severity=HIGH)

    async with replica(redis_url) as again:
        assert await on(again, "till") == ["woman"]
        assert await on(again, "door") == []
