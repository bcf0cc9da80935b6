"""A track's decision saves searches and changes nothing else."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import redis.asyncio
from poi.v1 import match_pb2

from mesh.embeddings import normalise
from mesh.local import Program, Redis
from tests.match_svc.support import Replica, becomes, counter, replica
from tests.support import detection, similar, unit

WOMAN, MAN, STRANGER = unit(1), unit(2), unit(3)
HITS, MISSES = "poi_match_decision_hits_total", "poi_match_decision_misses_total"
FAILURES = "poi_match_decision_errors_total"
SEARCHES = "poi_match_search_seconds_count"
PATIENT = {"decision_timeout": 5.0}
"""On a busy machine Redis may take longer than a match waits for it, and is left alone for a while then."""


async def test_the_next_faces_of_a_track_cost_no_search_and_change_the_similarity(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    await replica.enrol("man", MAN)
    faces = [similar(WOMAN, cosine, 5 + at) for at, cosine in enumerate((0.9, 0.6, 0.95, 0.4))]
    assert await replica.seen(detection(faces[0], at=0)) == [[("woman", 0.9)]]
    searches, hits = counter(SEARCHES), counter(HITS)

    for at in (1, 2, 3):
        pooled = round(float(WOMAN @ normalise(np.sum(faces[: at + 1], axis=0))), 3)
        assert await replica.seen(detection(faces[at], at=at)) == [[("woman", pooled)]]

    assert counter(HITS) == hits + 3
    assert counter(SEARCHES) == searches


async def test_a_recycled_id_makes_no_stranger_the_person(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    await replica.seen(detection(WOMAN, at=0))
    misses = counter(MISSES)

    assert await replica.seen(detection(STRANGER, at=1)) == [[]]
    assert await replica.seen(detection(similar(STRANGER, 0.9, 6), at=2)) == [[]]
    assert counter(MISSES) == misses, "what was known is not of the next person"


async def test_a_recycled_id_does_not_hide_another_person(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    await replica.enrol("man", MAN)
    assert await replica.seen(detection(WOMAN, at=0)) == [[("woman", 1.0)]]

    faces = [similar(MAN, 0.8, 6), similar(MAN, 0.7, 7)]
    assert await replica.seen(detection(faces[0], at=1)) == [[("man", 0.8)]]
    pooled = round(float(MAN @ normalise(np.sum(faces, axis=0))), 3)
    assert await replica.seen(detection(faces[1], at=2)) == [[("man", pooled)]]
    assert await replica.seen(detection(WOMAN, at=3)) == [[("woman", 1.0)]]


async def test_tracks_are_told_apart_in_one_batch(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    await replica.enrol("man", MAN)
    batch = [
        detection(WOMAN, camera="a", object_id="1"),
        detection(MAN, camera="b", object_id="1"),
        detection(STRANGER, camera="a", object_id="2"),
        detection(similar(WOMAN, 0.5, 9), camera="a", object_id="3"),
    ]
    expected = [[("woman", 1.0)], [("man", 1.0)], [], [("woman", 0.5)]]

    assert await replica.seen(*batch) == expected
    hits = counter(HITS)
    assert await replica.seen(*batch) == expected
    assert counter(HITS) == hits + 3


async def test_the_same_ids_in_another_store_are_another_track(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    await replica.seen(detection(WOMAN))
    request = match_pb2.MatchDetectionsRequest(parent="stores/other", detections=[detection(WOMAN, store="other")])

    async for response in replica.match.MatchDetections(iter([request])):
        assert not response.results
        assert not response.errors


async def test_a_newly_enrolled_person_is_not_hidden_by_a_decision(replica: Replica) -> None:
    await replica.enrol("woman", WOMAN)
    twin = similar(WOMAN, 0.8, 5)
    assert await replica.seen(detection(twin, at=0)) == [[("woman", 0.8)]]

    await replica.enrol("twin", twin)

    assert await replica.seen(detection(twin, at=1)) == [[("twin", 1.0), ("woman", 0.8)]]


async def test_a_better_match_is_found_when_the_decision_ends(redis_url: str) -> None:
    async with replica(redis_url, decision_seconds=4) as one:
        await one.enrol("woman", WOMAN)
        twin = similar(WOMAN, 0.4, 5)
        await one.enrol("twin", twin)
        assert await one.seen(detection(WOMAN, at=0)) == [[("woman", 1.0)]]
        both = normalise(WOMAN + 1.2 * twin)
        assert [poi for poi, _ in (await one.seen(detection(both, at=1)))[0]] == ["woman"]

        await asyncio.sleep(4.1)

        assert [poi for poi, _ in (await one.seen(detection(both, at=2)))[0]] == ["woman", "twin"]


async def test_replicas_share_decisions(redis_url: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    async with replica(redis_url, **PATIENT) as one, replica(redis_url, **PATIENT) as other, client:
        await one.enrol("woman", WOMAN)
        await becomes(["woman"], lambda: other.who(WOMAN))
        await one.seen(detection(WOMAN, at=0))
        # It is written after the answer.
        await becomes(1, lambda: client.exists("poi:{store-1}:decision:Camera_01:1"))
        hits = counter(HITS)

        assert await other.seen(detection(similar(WOMAN, 0.7, 5), at=1)) == [[("woman", 0.7)]]
        assert counter(HITS) == hits + 1
        assert await other.seen(detection(STRANGER, at=2)) == [[]]


async def test_a_redis_that_hangs_costs_a_moment_and_no_match(
    tmp_path: Path, started: Callable[[Program], None]
) -> None:
    server = Redis(tmp_path / "redis")
    started(server)
    async with replica(server.url) as one:
        await one.enrol("woman", WOMAN)
        os.killpg(server.pid, signal.SIGSTOP)
        try:
            begun, failures = time.monotonic(), counter(FAILURES)
            for at in range(50):
                batch = [detection(WOMAN, at=at, object_id=f"{at}"), detection(STRANGER, at=at, object_id=f"x{at}")]
                assert await one.seen(*batch) == [[("woman", 1.0)], []]
            # After each failure it is left alone for a second, by who reads and by who writes.
            assert counter(FAILURES) - failures <= 2 * (time.monotonic() - begun + 1)
        finally:
            os.killpg(server.pid, signal.SIGCONT)


async def test_only_as_many_tracks_are_remembered_as_allowed(redis_url: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    async with replica(redis_url, decision_tracks=10, **PATIENT) as one, client:
        await one.enrol("woman", WOMAN)
        batch = [detection(WOMAN, at=0, object_id=str(number)) for number in range(100)]
        assert await one.seen(*batch) == [[("woman", 1.0)]] * 100
        keys = [f"poi:{{store-1}}:decision:Camera_01:{number}" for number in range(100)]
        await becomes(100, lambda: client.exists(*keys))
        await client.delete(*keys)
        hits = counter(HITS)

        assert await one.seen(*batch) == [[("woman", 1.0)]] * 100
        assert counter(HITS) == hits + 10
