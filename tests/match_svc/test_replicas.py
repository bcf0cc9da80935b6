"""Several replicas on one registry: all know the same, whatever restarts."""

import asyncio
import itertools
import os
import signal
import uuid
from typing import Any

import pytest
from poi.v1 import match_pb2, poi_pb2

from match_svc.log import LogReader
from mesh.channels import connect
from tests.conftest import StartService
from tests.match_svc.support import STORE, Replica, becomes, refused, replica, stubs
from tests.support import embedding, in_days, similar, unit, valid_poi

WOMAN, MAN = unit(1), unit(2)


async def test_a_change_at_one_replica_is_matched_at_another(redis_url: str) -> None:
    async with replica(redis_url) as one, replica(redis_url) as other:
        face = similar(WOMAN, 0.6, 5)
        made = await one.enrol("woman", WOMAN)
        assert await one.who(face) == ["woman"], "at once where it was enrolled"
        await becomes(["woman"], lambda: other.who(face))

        await other.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=made.name, threshold=0.7)))
        assert await other.who(face) == []
        await becomes([], lambda: one.who(face))
        add = poi_pb2.AddReferenceRequest(poi=made.name, embedding=embedding(face), allow_disagreement=True)
        await one.pois.AddReference(add)
        await becomes(["woman"], lambda: other.who(face))

        await other.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=made.name))
        await becomes([], lambda: one.who(WOMAN))


async def trailing(call: Any) -> tuple[set[str], dict[str, str]]:
    """Replicas that had not confirmed, and all trailing metadata, of a call that is a removal."""
    await call
    metadata = {key: value for key, value in await call.trailing_metadata() if key.startswith("poi-")}
    return set(filter(None, metadata.get("poi-replicas-unconfirmed", "").split(","))), metadata


async def test_a_removal_is_in_effect_on_every_replica_when_it_is_answered(redis_url: str) -> None:
    async with replica(redis_url) as one, replica(redis_url) as two, replica(redis_url) as three:
        for number in range(15):
            face, other = unit(100 + number), unit(200 + number)
            made = await one.enrol(f"p{number}", face, other)
            await becomes([f"p{number}"], lambda face=face: three.who(face))  # type: ignore[misc]

            missing, told = await trailing(
                two.pois.DeleteReference(poi_pb2.DeleteReferenceRequest(name=made.references[0].name))
            )
            assert (missing, told["poi-replicas-confirmed"]) == (set(), "3")
            assert [await at.who(face) for at in (one, two, three)] == [[], [], []]

            past = poi_pb2.Poi(name=made.name)
            past.expire_time.seconds = 1
            await trailing(one.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=past)))
            assert [await at.who(other) for at in (one, two, three)] == [[], [], []]

            later = poi_pb2.Poi(name=made.name, expire_time=in_days(1))
            await one.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=later))
            await becomes([f"p{number}"], lambda other=other: three.who(other))  # type: ignore[misc]
            missing, _ = await trailing(two.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=made.name)))
            assert missing == set()
            assert [await at.who(other) for at in (one, two, three)] == [[], [], []]


async def test_a_removal_names_the_replica_that_hangs_and_then_no_longer_waits_for_it(
    redis_url: str, service: StartService
) -> None:
    hung = service("match_svc", {"POI_REDIS_URL": redis_url}, name="hung")
    async with replica(redis_url, confirm_seconds=2.0, replica_seconds=3.0) as one, connect(hung.target) as channel:
        await stubs(None, channel).loaded()
        woman, man = await one.enrol("woman", WOMAN), await one.enrol("man", MAN)
        listed = (await one.status()).replicas
        assert len(listed) == 2
        os.kill(hung.pid, signal.SIGSTOP)
        try:
            missing, told = await trailing(one.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=woman.name)))
            assert len(missing) == 1
            assert missing < {each.replica for each in listed}
            assert told["poi-replicas-confirmed"] == "1"

            async def oldest() -> bool:
                return max(each.heartbeat_age_ms for each in (await one.status()).replicas) > 3000

            await becomes(True, oldest)
            missing, _ = await trailing(one.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=man.name)))
            assert missing == set()
        finally:
            os.kill(hung.pid, signal.SIGCONT)
        again = stubs(None, channel)
        await again.loaded()
        for face in (WOMAN, MAN):
            await becomes([], lambda face=face: again.who(face))  # type: ignore[misc]


async def test_a_replica_that_stopped_in_good_order_is_not_waited_for(redis_url: str) -> None:
    async with replica(redis_url) as one:
        async with replica(redis_url):
            assert len((await one.status()).replicas) == 2
        assert len((await one.status()).replicas) == 1


async def test_a_replica_that_lags_is_not_serving_until_it_has_caught_up(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its follower stands still, as when the machine is too slow for the changes; heartbeats go on."""
    async with replica(redis_url) as one, replica(redis_url, max_lag_seconds=0.4) as slow:
        go_on = asyncio.Event()
        lookup = LogReader.lookup

        async def held(self: LogReader, *args: Any) -> Any:
            await go_on.wait()
            return await lookup(self, *args)

        await becomes(True, slow.serving)
        monkeypatch.setattr(LogReader, "lookup", held)
        enrolling = asyncio.create_task(one.enrol("woman", WOMAN))
        await becomes(False, slow.serving)
        status = await slow.status()
        assert status.lag_ms > 400
        assert (status.serving, status.poi_count) == (False, 0)

        async def told() -> bool:
            return any(each.lag_ms > 400 for each in (await one.status()).replicas)

        await becomes(True, told)
        go_on.set()
        await enrolling
        await becomes(True, slow.serving)
        assert await slow.who(WOMAN) == ["woman"]

        async def lag() -> int:
            return (await slow.status()).lag_ms

        await becomes(0, lag)


async def test_the_status_says_what_there_is(redis_url: str) -> None:
    async with replica(redis_url) as one, replica(redis_url) as other:
        await one.enrol("woman", WOMAN, unit(7))
        await one.enrol("man", MAN)
        await becomes(["man"], lambda: other.who(MAN))

        async def now() -> tuple[int, bool]:
            status = await other.status()
            return status.lag_ms, status.serving

        await becomes((0, True), now)
        status = await other.status()

        assert (status.revision, status.poi_count, status.reference_count) == (2, 2, 3)
        assert status.index_kind == match_pb2.INDEX_KIND_EXACT
        assert status.pending_reference_count == 3
        assert status.replica in {each.replica for each in status.replicas}
        assert len(status.replicas) == 2
        request = match_pb2.GetGalleryStatusRequest(name="stores/s/galleryStatus/x")
        assert (await refused(one.match.GetGalleryStatus(request)))[0] == "INVALID_ARGUMENT"


async def test_a_stores_threshold_reaches_all_replicas(redis_url: str) -> None:
    async with replica(redis_url) as one, replica(redis_url) as other:
        await one.enrol("woman", WOMAN)
        face = similar(WOMAN, 0.6, 5)
        await becomes(["woman"], lambda: other.who(face))
        settings = match_pb2.MatchSettings(name=f"{STORE}/matchSettings", threshold=0.7)

        await one.match.UpdateMatchSettings(match_pb2.UpdateMatchSettingsRequest(match_settings=settings))

        await becomes([], lambda: other.who(face))


async def test_a_restart_of_all_keeps_everything(redis_url: str) -> None:
    async with replica(redis_url) as one:
        made = await one.enrol("woman", WOMAN, threshold=0.5)
        await one.enrol("man", MAN)
        deleted = await one.enrol("gone", unit(3))
        await one.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=deleted.name))
        settings = match_pb2.MatchSettings(name=f"{STORE}/matchSettings", threshold=0.7)
        await one.match.UpdateMatchSettings(match_pb2.UpdateMatchSettingsRequest(match_settings=settings))

    async with replica(redis_url) as again:
        assert await again.who(similar(WOMAN, 0.55, 5)) == ["woman"]
        assert await again.who(similar(MAN, 0.65, 5)) == []
        assert await again.who(similar(MAN, 0.75, 5)) == ["man"]
        assert await again.who(unit(3)) == []
        made.ClearField("enrolment_report")
        assert await again.pois.GetPoi(poi_pb2.GetPoiRequest(name=made.name)) == made
        await again.enrol("new", unit(4))
        assert await again.who(unit(4)) == ["new"]


async def test_many_changes_at_two_replicas_at_once_lose_none(redis_url: str) -> None:
    async with replica(redis_url) as one, replica(redis_url) as other:
        made = await one.enrol("woman", WOMAN)
        faces = [unit(100 + number) for number in range(8)]

        async def add(at: Replica, number: int) -> None:
            request = poi_pb2.AddReferenceRequest(
                poi=made.name, embedding=embedding(faces[number]), allow_disagreement=True
            )
            await at.pois.AddReference(request)

        await asyncio.gather(*(add(at, number) for at, number in zip(itertools.cycle([one, other]), range(8))))

        for at in (one, other):
            for face in faces:
                await becomes(["woman"], lambda at=at, face=face: at.who(face))  # type: ignore[misc]
        assert len((await one.pois.GetPoi(poi_pb2.GetPoiRequest(name=made.name))).references) == 9


async def test_a_request_sent_to_two_replicas_at_once_makes_one_person(redis_url: str) -> None:
    async with replica(redis_url) as one, replica(redis_url) as other:
        request = poi_pb2.CreatePoiRequest(
            parent=STORE,
            poi=valid_poi("Jane"),
            embeddings=[embedding(WOMAN)],
            request_id=str(uuid.uuid4()),
        )

        async def create(at: Replica) -> poi_pb2.Poi:
            return await at.pois.CreatePoi(request)

        made = await asyncio.gather(*(create(at) for at in (one, other) * 5))

        assert len({poi.name for poi in made}) == 1
        assert (await one.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE))).total_size == 1
