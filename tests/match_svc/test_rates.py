"""Target rates become cosines, through the contract."""

from __future__ import annotations

import asyncio

import pytest
from poi.v1 import match_pb2, poi_pb2

from match_svc.calibration import shipped
from tests.match_svc.support import STORE, Replica, becomes, refused, replica
from tests.match_svc.test_watchlists import ALIGNED, SETTINGS, UNALIGNED, WOMAN, get, make, name_of, rate, tune
from tests.support import detection, similar, unit


async def test_a_target_rate_asks_for_more_as_the_gallery_grows_and_for_less_as_it_shrinks(redis_url: str) -> None:
    async with replica(redis_url) as one, replica(redis_url) as other:
        await one.enrol("woman", WOMAN)
        alone = await tune(one, target_false_match_rate=1e-3)
        assert (alone.effective.persons, alone.effective.extrapolated) == (1, False)
        assert alone.threshold == pytest.approx(0.45), "as it was, for the day when the rate is taken back"
        face = similar(WOMAN, alone.effective.aligned + 0.01, 5)
        await becomes(["woman"], lambda: other.who(face))
        (match,) = await one.matches(face)
        assert match.threshold == pytest.approx(alone.effective.aligned)
        assert match.false_match_rate == pytest.approx(1e-3, rel=1e-4)
        assert match.similarity_false_match_rate < 1e-3

        for number in range(20):
            await one.enrol(f"p{number}", unit(100 + number))

        grown = await one.match.GetMatchSettings(match_pb2.GetMatchSettingsRequest(name=SETTINGS))
        assert grown.effective.persons == 21
        assert grown.effective.aligned > alone.effective.aligned + 0.05
        assert await one.who(face) == []
        await becomes([], lambda: other.who(face))
        assert await one.who(similar(WOMAN, grown.effective.aligned + 0.01, 5)) == ["woman"]
        for number in range(20):
            await one.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=f"{STORE}/pois/p{number}"))
        assert [await at.who(face) for at in (one, other)] == [["woman"]] * 2

        await tune(one, "target_false_match_rate")
        assert await one.who(face) == []
        assert await one.who(similar(WOMAN, 0.46, 5)) == ["woman"]


async def test_the_rate_of_a_list_counts_the_persons_on_it_and_the_stores_all(replica: Replica) -> None:
    await make(replica, "l", threshold=rate(1e-4))
    for number in range(5):
        await replica.enrol(f"p{number}", unit(100 + number), watchlists=[name_of("l")] if number < 2 else [])
    await tune(replica, target_false_match_rate=1e-4)

    listed, store = (await get(replica, "l")), await tune(replica, target_false_match_rate=1e-4)

    assert (listed.poi_count, listed.effective.persons, store.effective.persons) == (2, 2, 5)
    assert listed.effective.aligned == pytest.approx(shipped().cosine(1e-4 / 2, True)[0])
    assert store.effective.unaligned == pytest.approx(shipped().cosine(1e-4 / 5, False)[0])
    for poi_id, effective in ((0, listed.effective), (4, store.effective)):
        (match,) = await replica.matches(unit(100 + poi_id))
        assert match.threshold == pytest.approx(effective.aligned)


async def test_a_rate_asks_for_different_cosines_of_aligned_and_of_other_probes(redis_url: str) -> None:
    # Without pooling: a face alone would have to be clearer than the limit.
    async with replica(redis_url, pool_faces=1) as one:
        now = (await tune(one, target_false_match_rate=1e-4)).effective
        assert now.aligned < now.unaligned
        # Of one embedding alone: both kinds of probes are compared with the same vector.
        await one.enrol("woman", WOMAN)
        between = similar(WOMAN, (now.aligned + now.unaligned) / 2, 5)

        assert await one.who(between, ALIGNED) == ["woman"]
        assert await one.who(between, UNALIGNED) == []
        pair = [detection(between, object_id=str(kind), alignment=kind) for kind in (ALIGNED, UNALIGNED)]
        assert [len(found) for found in await one.seen(*pair)] == [1, 0]
        assert [len(found) for found in await one.seen(*pair)] == [1, 0], "once the tracks are known"
        (match,) = await one.matches(similar(WOMAN, 0.9, 5), UNALIGNED)
        assert match.threshold == pytest.approx(now.unaligned)
        assert match.similarity_false_match_rate < match.false_match_rate == pytest.approx(1e-4, rel=1e-4)


async def test_two_changes_of_the_settings_at_once_lose_neither(replica: Replica) -> None:
    await asyncio.gather(tune(replica, threshold=0.6), tune(replica, target_false_match_rate=1e-3))

    kept = await replica.match.GetMatchSettings(match_pb2.GetMatchSettingsRequest(name=SETTINGS))
    assert kept.threshold == pytest.approx(0.6)
    assert kept.target_false_match_rate == 1e-3
    wrong = tune(replica, "effective")
    assert (await refused(wrong))[1] == "INVALID_UPDATE_MASK"
