"""Who has expired counts for nothing: not as a duplicate, nor for rates, although nothing is changed at that moment."""

import pytest
from poi.v1 import common_pb2, match_pb2, poi_pb2, watchlist_pb2
from prometheus_client import REGISTRY

from match_svc.builder import Builder
from match_svc.expiry import Expiries
from match_svc.policy import Rules
from mesh.embeddings import encode
from tests.match_svc.support import STORE, Replica, becomes, refused, replica
from tests.match_svc.test_watchlists import SETTINGS, get, make, name_of, rate, tune
from tests.support import embedding, in_days, similar, unit, until, valid_poi

WOMAN = unit(1)
SECOND = 1 / 86_400


def without_leave(poi_id: str) -> poi_pb2.CreatePoiRequest:
    """Enrols the woman, unless she is enrolled."""
    return poi_pb2.CreatePoiRequest(parent=STORE, poi_id=poi_id, poi=valid_poi(), embeddings=[embedding(WOMAN)])


async def end(at: Replica, name: str, days: float) -> None:
    """Give a person another end."""
    await at.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=name, expire_time=in_days(days))))


async def test_who_has_expired_is_no_duplicate(replica: Replica) -> None:
    made = await replica.enrol("old", WOMAN)
    assert (await refused(replica.pois.CreatePoi(without_leave("new"))))[1] == "LIKELY_DUPLICATE"

    await end(replica, made.name, -1)

    report = (await replica.pois.CreatePoi(without_leave("new"))).enrolment_report
    assert (report.accepted, list(report.duplicates)) == (True, [])
    await end(replica, made.name, 1)
    newer = (await refused(replica.pois.CreatePoi(without_leave("newer"))))[1]
    assert newer == "LIKELY_DUPLICATE"


async def test_rates_are_for_those_who_have_not_expired_as_soon_as_they_do(redis_url: str) -> None:
    async with replica(redis_url) as one, replica(redis_url) as other:
        await make(one, "l", threshold=rate(1e-4))
        await one.enrol("woman", WOMAN)
        for number in range(9):
            await one.enrol(
                f"p{number}", unit(100 + number), watchlists=[name_of("l")], expire_time=in_days(5 * SECOND)
            )
        await one.enrol("listed", unit(200), watchlists=[name_of("l")])
        await tune(one, target_false_match_rate=1e-3)

        async def persons(at: Replica) -> tuple[int, int]:
            settings = await at.match.GetMatchSettings(match_pb2.GetMatchSettingsRequest(name=SETTINGS))
            return settings.effective.persons, (await get(at, "l")).effective.persons

        for at in (one, other):
            await becomes((2, 1), lambda at=at: persons(at))  # type: ignore[misc]
        listed: watchlist_pb2.Watchlist = await get(one, "l")
        assert listed.poi_count == 10, "they are on it until they are forgotten"
        assert (await one.status()).poi_count == 11
        settings = await one.match.GetMatchSettings(match_pb2.GetMatchSettingsRequest(name=SETTINGS))
        (match,) = await other.matches(similar(WOMAN, 0.95, 5))
        assert match.threshold == pytest.approx(settings.effective.aligned)
        label = {"store": "store-1"}
        await until(lambda: REGISTRY.get_sample_value("poi_gallery_expired_people", label) == 9)


def person(poi_id: str, expires: float, *lists: str) -> poi_pb2.Poi:
    poi = poi_pb2.Poi(name=f"{STORE}/pois/{poi_id}", watchlists=[name_of(one) for one in lists])
    vector = encode(unit(int(poi_id)), model=embedding(WOMAN).model, alignment=common_pb2.ALIGNMENT_ALIGNED)
    poi.references.add(name=f"{poi.name}/references/r", model=vector.model, embeddings=[vector])
    poi.expire_time.FromNanoseconds(round(expires * 1e9))
    return poi


def test_persons_are_counted_as_the_clock_goes_forward_and_back() -> None:
    now = 1000.0
    rules = Rules(match_pb2.Threshold(false_match_rate=1e-3), [watchlist_pb2.Watchlist(name=name_of("l"))])
    builder = Builder("s", rules, 1 << 20, clock=lambda: now)

    def counted() -> tuple[int, int, dict[str, int]]:
        """Made anew only where that is due."""
        assert builder.outdated()
        gallery = builder.apply({}, rules, 1)
        assert not builder.outdated()
        return gallery.policy.store.persons, gallery.expired.persons, dict(gallery.expired.members)

    builder.apply({"1": person("1", 2000), "2": person("2", 3000, "l"), "3": person("3", 500, "l")}, rules, 1)
    now = 2000
    assert counted() == (1, 2, {"l": 1})
    now = 3000
    assert counted() == (1, 3, {"l": 2}), "rates are for one at least"
    now = 1500
    assert counted() == (2, 1, {"l": 1}), "the clock was set right"

    builder.apply({"3": None, "2": person("2", 1200, "l")}, rules, 1)
    now = 1100
    assert counted() == (2, 0, {"l": 0})
    now = 5000
    gallery = builder.apply({"1": person("1", 6000)}, rules, 1)
    assert (gallery.policy.store.persons, gallery.expired.persons) == (1, 1)
    assert [one.poi_id for one in gallery.to_forget(5000)] == ["2"]
    assert gallery.to_forget(1199) == []


def test_asking_costs_nothing_while_nobody_expires() -> None:
    expiries = Expiries()
    assert not expiries.due(1e12)
    assert expiries.add([10, 20, float("inf")], now=15) == [True, False, False]
    assert [expiries.due(now) for now in (9, 10, 19, 20)] == [True, False, False, True]
    assert expiries.turn(25) == ([1], [])
    assert expiries.turn(5) == ([], [0, 1])
    assert (expiries.remove(0), expiries.turn(1e9)) == (False, ([1], []))
