"""Who has expired is deleted for good by the service itself, a grace period later."""

import asyncio
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from poi.v1 import audit_pb2, poi_pb2
from prometheus_client import REGISTRY

from match_svc import forgetting
from match_svc.forgetting import ACTION, Forgetter
from match_svc.registry import Registry
from mesh.audit import chain
from mesh.channels import connect
from mesh.errors import Unavailable
from mesh.local import Service
from tests.conftest import StartService
from tests.match_svc.standin import picture, standing_in
from tests.match_svc.support import STORE, Replica, becomes, refused, replica, stubs
from tests.support import PATIENCE, embedding, in_days, unit, until, valid_poi

WOMAN, MAN = unit(1), unit(2)
DAY = 86_400
BEGIN, END = audit_pb2.AUDIT_PHASE_BEGIN, audit_pb2.AUDIT_PHASE_END


async def end(at: Replica, name: str, days: float) -> None:
    """Give a person another end."""
    await at.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=name, expire_time=in_days(days))))


async def enrolled(at: Replica) -> set[str]:
    """Ids of all who are."""
    listed = await at.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE, page_size=1000))
    return {poi.name.rpartition("/")[2] for poi in listed.pois}


def store_old(redis_url: str, expired_days_ago: dict[str, float]) -> None:
    """Persons whom nobody has changed since they were enrolled, long before they expired."""
    with redis.Redis.from_url(redis_url) as client:
        for number, (poi_id, days) in enumerate(expired_days_ago.items(), start=1):
            poi = valid_poi(f"Unmistakable {number}", name=f"{STORE}/pois/{poi_id}", expire_time=in_days(-days))
            poi.update_time.seconds = 1
            face = embedding(unit(1000 + number))
            poi.references.add(name=f"{poi.name}/references/r", model=face.model, embeddings=[face])
            client.hset("poi:{gallery}:pois:store-1", poi_id, b"%d:" % number + poi.SerializeToString())
            client.zadd("poi:{gallery}:order:store-1", {poi_id: number})
            client.hset("poi:{gallery}:revisions", "store-1", number)
            client.set("poi:{gallery}:revision", number)


async def audited(redis_url: str) -> list[audit_pb2.AuditRecord]:
    """What is on record of persons who were forgotten, oldest first."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        pages = [page async for page in chain.oldest_first(client, "store-1")]
    records = [entry.record("store-1") for page in pages for entry in page]
    return [record for record in records if record.action == ACTION]


def forgotten() -> float:
    """How many, by the metric of this process."""
    return REGISTRY.get_sample_value("poi_registry_people_forgotten_total", {"store": "store-1"}) or 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[float]]:
    """Sets the clocks of forgetters wrong, by so many seconds; it has what they were told."""
    monkeypatch.setattr(forgetting, "_LOOK_SECONDS", 0.05)

    def wrong(by: float) -> list[float]:
        told: list[float] = []

        def clock() -> float:
            told.append(time.time() + by)
            return told[-1]

        kwdefaults: Any = Forgetter.__init__.__kwdefaults__
        monkeypatch.setitem(kwdefaults, "clock", clock)
        return told

    return wrong


async def test_all_that_is_stored_of_who_expired_goes_once_with_two_replicas(redis_url: str) -> None:
    settings = {"forget_after_days": 0, "audit_redis_url": redis_url}
    before = forgotten()
    async with (
        standing_in() as eyes,
        replica(redis_url, embed_target=eyes.target, **settings) as one,
        replica(redis_url, **settings) as other,
        redis.asyncio.Redis.from_url(redis_url) as client,
    ):
        create = poi_pb2.CreatePoiRequest(parent=STORE, poi_id="p1", poi=valid_poi(), images=[picture(1), picture(2)])
        create.allow_disagreement = True
        made = await one.pois.CreatePoi(create)
        await one.enrol("stays", MAN)
        assert await client.hlen("poi:{gallery}:images:store-1") == 2

        await end(other, made.name, -1)

        await becomes({"stays"}, lambda: enrolled(other))
        assert await client.exists("poi:{gallery}:images:store-1") == 0
        assert await client.hkeys("poi:{gallery}:pois:store-1") == [b"stays"]
        for at in (one, other):
            await becomes(1, lambda at=at: _count(at))  # type: ignore[misc]
        assert (await refused(one.pois.GetPoi(poi_pb2.GetPoiRequest(name=made.name))))[0] == "NOT_FOUND"
        await until(lambda: _length(redis_url, 2))
    first, last = await audited(redis_url)
    assert (first.phase, last.phase, last.code) == (BEGIN, END, "OK")
    for record in (first, last):
        assert (record.actor.kind, record.server, record.resource) == (
            audit_pb2.ACTOR_KIND_SERVER,
            "match",
            made.name,
        )
        assert (record.details["reason"], record.call_id) == ("expired", first.call_id)
    assert forgotten() - before == 1


async def _count(at: Replica) -> int:
    return (await at.status()).poi_count


async def _length(redis_url: str, wanted: int) -> bool:
    return len(await audited(redis_url)) == wanted


async def test_only_those_whose_grace_period_is_over_go_and_the_others_can_come_back(redis_url: str) -> None:
    store_old(redis_url, {"long": 31, "lately": 29})
    async with replica(redis_url) as one:
        changed = await one.enrol("changed", WOMAN)
        await end(one, changed.name, -400)

        await becomes({"lately", "changed"}, lambda: enrolled(one))
        assert await one.who(WOMAN) == []
        for name, face in ((f"{STORE}/pois/lately", unit(1002)), (changed.name, WOMAN)):
            await end(one, name, 1)
            assert await one.who(face) == [name.rpartition("/")[2]]


async def test_who_is_given_a_new_end_at_the_last_moment_stays(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = asyncio.Event()
    delete = Registry.delete

    async def overtaken(self: Registry, store: str, poi_id: str, etag: str = "") -> int:
        def later(poi: poi_pb2.Poi) -> None:
            poi.expire_time.CopyFrom(in_days(1))

        await self.change(store, poi_id, later)
        tried.set()
        return await delete(self, store, poi_id, etag)

    monkeypatch.setattr(Registry, "delete", overtaken)
    async with replica(redis_url, forget_after_days=0, audit_redis_url=redis_url) as one:
        made = await one.enrol("woman", WOMAN)
        await end(one, made.name, -1)

        await tried.wait()

        await until(lambda: _length(redis_url, 2))
        assert await one.who(WOMAN) == ["woman"]
    assert [(one.phase, one.code) for one in await audited(redis_url)] == [(BEGIN, ""), (END, "ABORTED")]


@pytest.mark.parametrize(("by", "expired_days_ago"), [(100 * DAY, 1), (-100 * DAY, 31)])
async def test_a_clock_that_is_wrong_forgets_nobody(
    redis_url: str, clock: Callable[[float], list[float]], by: float, expired_days_ago: float
) -> None:
    """Ahead, by which everybody's time is over; or behind, while Redis's would be the one that is ahead."""
    store_old(redis_url, {"p1": expired_days_ago})
    told = clock(by)
    async with replica(redis_url) as one:
        await until(lambda: len(told) > 20, "some passes")
        assert await enrolled(one) == {"p1"}


async def test_nobody_goes_without_an_audit_record(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "_RETRY_SECONDS", 0.05)
    tried = 0

    async def unwritable(*_: Any, **__: Any) -> None:
        nonlocal tried
        tried += 1
        raise Unavailable("the audit log cannot be written", reason="AUDIT_UNAVAILABLE")

    store_old(redis_url, {"p1": 31})
    with monkeypatch.context() as broken:
        broken.setattr("mesh.audit.record", unwritable)
        async with replica(redis_url) as one:
            await until(lambda: tried > 2)
            assert await enrolled(one) == {"p1"}
            broken.undo()
            await becomes(set(), lambda: enrolled(one))


async def test_many_go_slowly_and_another_replica_goes_on_after_sigkill(redis_url: str, service: StartService) -> None:
    everybody = {f"p{number}": 31.0 for number in range(104)}
    store_old(redis_url, everybody)
    env = {"POI_REDIS_URL": redis_url, "POI_AUDIT_REDIS_URL": redis_url, "POI_MATCH_CONFIRM_SECONDS": "0.5"}
    servers = [service("match_svc", env, name=name) for name in ("one", "two")]

    await until(lambda: _gone(redis_url, 6))
    (busy,) = [server for server in servers if _logged(server, "forgetting_many")]
    (spare,) = [server for server in servers if server is not busy]
    busy.kill()
    async with connect(spare.target) as channel:
        assert await enrolled(stubs(None, channel)), "killed in between"
        await becomes(set(), lambda: enrolled(stubs(None, channel)), within=2 * PATIENCE)
        await becomes(0, lambda: _count(stubs(None, channel)))

    (told,) = _logged(busy, "forgetting_many")
    assert (told["due"], told["persons"], told["per_second"]) == (104, 104, 5.0)
    assert "Unmistakable" not in busy.log_path.read_text() + spare.log_path.read_text()
    begun: dict[str, list[float]] = defaultdict(list)
    ended: list[str] = []
    for record in await audited(redis_url):
        if record.phase == BEGIN:
            begun[record.resource].append(record.record_time.ToNanoseconds() / 1e9)
        else:
            ended.append(record.resource)
    assert begun.keys() == {f"{STORE}/pois/{poi_id}" for poi_id in everybody}
    assert len(ended) == len(set(ended))
    starts = sorted(times[0] for times in begun.values())[:6]
    assert all(after - before > 0.19 for before, after in itertools.pairwise(starts))


async def _gone(redis_url: str, least: int) -> bool:
    return len([one for one in await audited(redis_url) if one.phase == END]) >= least


def _logged(server: Service, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in server.log_path.read_text().splitlines())
    return [line for line in lines if line["event"] == event]
