"""`python -m match_svc reembed`: all embeddings anew, at once, or not at all."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from io import StringIO

import pytest
import redis.asyncio
from poi.v1 import embedding_pb2_grpc, poi_pb2
from rich.console import Console

from match_svc.reembed import Reembedding, ReembedError, reembed
from match_svc.reembed import run as command
from match_svc.registry import pois_key, reembed_key
from match_svc.settings import MatchServerSettings
from mesh.channels import connect
from mesh.embeddings import FACE_MODEL
from tests.match_svc.standin import StandIn, picture, standing_in
from tests.match_svc.support import STORE, Replica, becomes, replica
from tests.support import embedding, unit, valid_poi

PEOPLE = range(1, 13)


@pytest.fixture
async def eyes() -> AsyncIterator[StandIn]:
    async with standing_in() as running:
        yield running


@pytest.fixture
async def one(redis_url: str, eyes: StandIn) -> AsyncIterator[Replica]:
    """A replica with somebody of each colour, enrolled from a photo."""
    async with replica(redis_url, embed_target=eyes.target) as running:
        for who in PEOPLE:
            await enrol(running, who)
        yield running


async def enrol(one: Replica, who: int) -> poi_pb2.Poi:
    return await one.pois.CreatePoi(
        poi_pb2.CreatePoiRequest(parent=STORE, poi_id=f"p{who}", poi=valid_poi(f"P{who}"), images=[picture(who)])
    )


async def run(
    redis_url: str,
    eyes: StandIn,
    *,
    drop: bool = False,
    model: str = FACE_MODEL,
    prepare: bool = False,
    anew: bool = False,
) -> tuple[bool, str]:
    """Whether it did it, and what it said; with another model it only prepares."""
    settings = MatchServerSettings(redis_url=redis_url, embed_target=eyes.target)
    said = StringIO()
    console = Console(file=said, soft_wrap=True)
    prepare = prepare or model != FACE_MODEL
    done = await reembed(settings, "store-1", model, prepare_only=prepare, drop=drop, console=console, anew=anew)
    return done, said.getvalue()


def change_the_model(eyes: StandIn) -> None:
    """From now on it answers other vectors."""
    eyes.vectors = {who: unit(500 + who) for who in range(1, 25)}


async def test_the_new_embeddings_take_the_place_of_the_old_ones_at_every_replica(
    one: Replica, redis_url: str, eyes: StandIn
) -> None:
    async with replica(redis_url, embed_target=eyes.target) as other:
        before = await one.pois.GetPoi(poi_pb2.GetPoiRequest(name=f"{STORE}/pois/p1"))
        change_the_model(eyes)

        done, output = await run(redis_url, eyes)

        assert (done, output.splitlines()[0]) == (
            True,
            "store-1: 12 persons, 12 references anew, 0 kept as they are",
        )
        for at in (one, other):
            for who in PEOPLE:
                await becomes([f"p{who}"], lambda at=at, who=who: at.who(unit(500 + who)))  # type: ignore[misc]
                assert await at.who(unit(100 + who)) == []
        after = await one.pois.GetPoi(poi_pb2.GetPoiRequest(name=before.name))
        assert after.etag != before.etag
        before.etag = after.etag
        assert after == before, "nothing but the embeddings"
        # Life goes on: changes are taken, pictures are there.
        await one.pois.GetReferenceImage(poi_pb2.GetReferenceImageRequest(name=after.references[0].name))
        await enrol(one, 20)
        await one.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=before.name, etag=after.etag))
        assert await other.who(unit(501)) == []
        assert await other.who(unit(520)) == ["p20"]


async def test_whoever_would_vanish_is_named_and_nothing_is_switched(
    one: Replica, redis_url: str, eyes: StandIn
) -> None:
    """One was enrolled by an embedding of the same model, one by that of an older one."""
    await one.enrol("plain", unit(40))
    old = poi_pb2.Poi(name=f"{STORE}/pois/old", display_name="Old")
    old.references.add(name=f"{old.name}/references/r", model="older", embeddings=[embedding(unit(41), model="older")])
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.hset(pois_key("store-1"), "old", b"1:" + old.SerializeToString())
        change_the_model(eyes)

        done, output = await run(redis_url, eyes)

        assert not done
        assert "would have no reference that is matched: stores/store-1/pois/old" in output
        assert f"no longer matched: {old.references[0].name}" in output
        assert await one.who(unit(101)) == ["p1"]

        done, output = await run(redis_url, eyes, drop=True)
        assert (done, "1 kept as they are" in output) == (True, True)
        await becomes(["p1"], lambda: one.who(unit(501)))
        assert await one.who(unit(40)) == ["plain"]
        assert await one.pois.GetPoi(poi_pb2.GetPoiRequest(name=old.name))
        assert not await client.exists(reembed_key("store-1"))


async def test_another_model_than_the_embedding_service_runs_is_refused(
    redis_url: str, one: Replica, eyes: StandIn
) -> None:
    eyes.model = "other-model"

    with pytest.raises(ReembedError, match="computes other-model, not face-reidentification-retail-0095"):
        await run(redis_url, eyes)
    with pytest.raises(SystemExit, match="2"):
        command(["--model", "other-model"])
    done, output = await run(redis_url, eyes, model="other-model")
    assert (done, "12 references anew" in output) == (True, True)
    assert await one.who(unit(101)) == ["p1"]


async def test_after_a_kill_it_goes_on_where_it_was(redis_url: str, one: Replica, eyes: StandIn) -> None:
    change_the_model(eyes)
    eyes.gate, eyes.calls = asyncio.Semaphore(5), 0
    env = {**os.environ, "POI_REDIS_URL": redis_url, "POI_EMBED_TARGET": eyes.target}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "match_svc", "reembed", env=env)
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        try:
            await becomes(5, lambda: client.hlen(reembed_key("store-1")))
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        assert await one.who(unit(101)) == ["p1"]
        assert eyes.calls == 5
        eyes.gate = None

        assert (await run(redis_url, eyes))[0]

    assert eyes.calls == 12, "nobody was looked at twice"
    await becomes(["p1"], lambda: one.who(unit(501)))


async def test_what_was_prepared_long_ago_is_used_only_where_that_is_wanted(
    redis_url: str, one: Replica, eyes: StandIn
) -> None:
    assert "earlier run" not in (await run(redis_url, eyes, prepare=True))[1]
    change_the_model(eyes)  # under the same name

    done, output = await run(redis_url, eyes, prepare=True)
    assert output.splitlines()[0] == "store-1: goes on with 12 persons of an earlier run; --anew makes them again"
    done, output = await run(redis_url, eyes, anew=True)

    assert (done, "earlier run" in output) == (True, False)
    await becomes(["p1"], lambda: one.who(unit(501)))


async def test_whoever_changes_meanwhile_is_looked_at_again_and_who_goes_leaves_nothing(
    redis_url: str, one: Replica, eyes: StandIn
) -> None:
    change_the_model(eyes)
    async with redis.asyncio.Redis.from_url(redis_url) as client, connect(eyes.target) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        work = Reembedding(client, stub, "store-1", FACE_MODEL, timeout=60, log_length=1000, say=print)
        await work.prepare()
        assert await client.hlen(reembed_key("store-1")) == 12

        await one.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=f"{STORE}/pois/p1", notes="new")))
        await one.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=f"{STORE}/pois/p2"))
        assert not await client.hexists(reembed_key("store-1"), "p2")
        assert not await work.switch()
        await work.prepare()
        assert await work.switch()

    await becomes(["p1"], lambda: one.who(unit(501)))
    assert (await one.pois.GetPoi(poi_pb2.GetPoiRequest(name=f"{STORE}/pois/p1"))).notes == "new"
    assert await one.who(unit(502)) == []
