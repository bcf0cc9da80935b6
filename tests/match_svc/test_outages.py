"""Replicas that are killed, or that Redis or a change of its registry has passed by."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import redis.asyncio
from poi.v1 import poi_pb2

from mesh.channels import connect
from mesh.local import Program, Redis, Service
from tests.conftest import StartService
from tests.match_svc.support import STORE, Replica, becomes, refused, replica, stubs, unloaded_replica
from tests.support import detection, unit

WOMAN, MAN = unit(1), unit(2)


async def test_a_replica_that_redis_no_longer_hears_is_not_serving_and_serves_again(
    tmp_path: Path, started: Callable[[Program], None]
) -> None:
    server = Redis(tmp_path / "redis")
    started(server)
    async with replica(server.url, replica_seconds=1.0) as one:
        await one.enrol("woman", WOMAN)
        server.kill()
        await becomes(False, one.serving)
        assert await one.who(WOMAN) == ["woman"], "who asks all the same is answered"

        server.start()
        await becomes(True, one.serving)


@pytest.mark.parametrize("then", ["nothing", "a change"])
async def test_a_replica_that_missed_a_change_loads_anew(redis_url: str, then: str) -> None:
    """As when the log was trimmed past a replica's position: a change is in the registry and not in the log."""
    async with replica(redis_url) as one, redis.asyncio.Redis.from_url(redis_url) as client:
        await one.enrol("woman", WOMAN)
        async with client.pipeline(transaction=True) as pipe:
            pipe.incr("poi:{gallery}:revision")
            pipe.hdel("poi:{gallery}:pois:store-1", "woman")
            await pipe.execute()

        if then == "a change":
            await one.enrol("man", MAN)
            assert await one.who(MAN) == ["man"]

        await becomes([], lambda: one.who(WOMAN))


async def test_the_log_does_not_grow_for_ever(redis_url: str) -> None:
    async with replica(redis_url, log_length=100) as one, redis.asyncio.Redis.from_url(redis_url) as client:
        made = await one.enrol("woman", WOMAN)
        for number in range(260):
            await one.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=made.name, notes=str(number))))

        assert await client.xlen("poi:{gallery}:log") < 220
        assert await one.who(WOMAN) == ["woman"]


async def test_a_registry_that_was_emptied_empties_the_gallery(redis_url: str) -> None:
    async with replica(redis_url) as one, redis.asyncio.Redis.from_url(redis_url) as client:
        await one.enrol("woman", WOMAN)
        await one.enrol("man", MAN)

        await client.flushall()

        await becomes([], lambda: one.who(WOMAN))
        await one.enrol("other", unit(3))
        await becomes(["other"], lambda: one.who(unit(3)))
        assert await one.who(MAN) == []


async def test_matching_goes_on_while_redis_is_away_and_enrolment_after(
    tmp_path: Path, started: Callable[[Program], None]
) -> None:
    server = Redis(tmp_path / "redis")
    started(server)
    async with replica(server.url) as one, replica(server.url) as other:
        await one.enrol("woman", WOMAN)
        await becomes(["woman"], lambda: other.who(WOMAN))

        server.kill()

        for at in range(20):
            assert await one.seen(detection(WOMAN, at=at, object_id=str(at))) == [[("woman", 1.0)]]
        assert await other.who(WOMAN) == ["woman"]
        assert await one.serving()
        server.start()
        await one.enrol("man", MAN)
        assert await one.who(MAN) == ["man"]
        await becomes(["man"], lambda: other.who(MAN))
        assert await one.who(WOMAN) == ["woman"]


async def test_a_change_without_redis_is_refused_as_unavailable(
    tmp_path: Path, started: Callable[[Program], None]
) -> None:
    server = Redis(tmp_path / "redis")
    started(server)
    async with replica(server.url) as one:
        await one.enrol("woman", WOMAN)
        server.kill()
        # A plain channel: the mesh's own would try again until its deadline.
        async with grpc.aio.insecure_channel(one.server.address) as channel:
            refusal = await refused(
                stubs(None, channel).pois.DeletePoi(poi_pb2.DeletePoiRequest(name=f"{STORE}/pois/woman"))
            )

    assert refusal == ("UNAVAILABLE", "STATE_UNAVAILABLE", set())


async def test_a_replica_that_has_not_loaded_is_not_serving_and_answers_once_it_has(
    tmp_path: Path, started: Callable[[Program], None]
) -> None:
    server = Redis(tmp_path / "redis")
    started(server)
    async with replica(server.url) as one:
        await one.enrol("woman", WOMAN)
    server.kill()

    async with unloaded_replica(server.url) as again:
        assert not await again.serving()
        waiting = asyncio.create_task(again.who(WOMAN))
        await asyncio.to_thread(server.start)
        assert await waiting == ["woman"]
        await becomes(True, again.serving)


@pytest.fixture
async def processes(redis_url: str, service: StartService) -> AsyncIterator[list[tuple[Service, Replica]]]:
    """Two replicas as processes of their own."""
    servers = [service("match_svc", {"POI_REDIS_URL": redis_url}, name=name) for name in ("one", "two")]
    channels = [connect(server.target) for server in servers]
    replicas = [stubs(None, channel) for channel in channels]
    for one in replicas:
        await one.loaded()
    yield list(zip(servers, replicas, strict=True))
    for channel in channels:
        await channel.close()


async def test_sigkill_of_all_replicas_loses_nothing_acknowledged(
    processes: list[tuple[Service, Replica]],
) -> None:
    (first, one), (second, two) = processes
    acknowledged: list[str] = []

    async def enrol_for_ever() -> None:
        for number in itertools.count():
            await one.enrol(f"p{number}", unit(1000 + number))
            acknowledged.append(f"p{number}")

    enrolling = asyncio.create_task(enrol_for_ever())
    await becomes(True, lambda: asyncio.sleep(0, len(acknowledged) >= 30))
    await becomes(["p29"], lambda: two.who(unit(1029)))

    first.kill()
    second.kill()
    enrolling.cancel()
    await asyncio.gather(enrolling, return_exceptions=True)
    await asyncio.to_thread(first.start)
    await asyncio.to_thread(second.start)

    for at in (one, two):
        for number, poi_id in enumerate(acknowledged):
            assert await at.who(unit(1000 + number)) == [poi_id]
    listed = await one.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE, page_size=1000))
    assert {poi.name.rpartition("/")[2] for poi in listed.pois} >= set(acknowledged)


async def test_the_log_names_nobody(service: StartService, redis_url: str) -> None:
    server = service("match_svc", {"POI_REDIS_URL": redis_url, "POI_LOG_LEVEL": "debug"})
    async with connect(server.target) as channel:
        one = stubs(None, channel)
        await one.enrol("p1", WOMAN, display_name="Jane Unmistakable", notes="limps")
        await one.stream([detection(WOMAN)], [detection(unit(3, 100), object_id="2")])
        await refused(one.enrol("p1", WOMAN, display_name="Jane Unmistakable"))
    server.stop()

    text = server.log_path.read_text()
    assert [line for line in text.splitlines() if json.loads(line)["event"] == "gallery_loaded"]
    assert "Unmistakable" not in text
    assert "limps" not in text


@pytest.mark.parametrize(
    ("variable", "value"), [("POI_MATCH_DEFAULT_THRESHOLD", "1.5"), ("POI_REDIS_URL", "localhost:6379")]
)
def test_a_wrong_setting_stops_the_start_with_one_line(variable: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "match_svc"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), variable: value},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert variable in done.stderr
