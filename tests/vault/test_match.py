"""The registry over a vault: persons and pictures are sealed, and matched as before."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
import redis
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2
from poi.v1 import common_pb2, poi_pb2

from match_svc.records import Records
from match_svc.registry import Registry, Request, images_key, pois_key
from mesh import redis as connections
from mesh.errors import DataLoss, from_rpc
from mesh.vault import Unopenable
from tests.match_svc.support import STORE as PARENT
from tests.match_svc.support import Replica, replica, unloaded_replica
from tests.support import unit
from tests.support.waiting import until
from tests.vault.conftest import Keys
from tests.vault.redis_bytes import everything

STORE = PARENT.rpartition("/")[2]
NAME = "a name that nobody else has"


@pytest.fixture
def vault_settings(keys: Keys) -> dict[str, Any]:
    keys.run("init", "--store", STORE)
    return {"vault_keyring": keys.keyring, "vault_master": keys.master}


async def enrol(running: Replica) -> None:
    await running.enrol("p1", unit(1), display_name=NAME)
    await running.enrol("p2", unit(2))


async def test_persons_are_sealed_and_matched_as_before(redis_url: str, vault_settings: dict[str, Any]) -> None:
    async with replica(redis_url, **vault_settings) as running:
        await enrol(running)
        assert await running.who(unit(1)) == ["p1"]
        assert (await running.pois.GetPoi(poi_pb2.GetPoiRequest(name=f"{PARENT}/pois/p1"))).display_name == NAME
        listed = await running.pois.ListPois(poi_pb2.ListPoisRequest(parent=PARENT))
        assert [poi.display_name for poi in listed.pois] == ["p2", NAME]

    kept = everything(redis_url)
    assert NAME.encode() not in kept
    assert unit(1).astype("<f4").tobytes()[:16] not in kept
    async with replica(redis_url, **vault_settings) as running:
        assert await running.who(unit(1)) == ["p1"]


async def test_who_was_enrolled_before_is_matched_and_sealed_beside_the_work(
    redis_url: str, vault_settings: dict[str, Any]
) -> None:
    async with replica(redis_url) as running:
        await enrol(running)
    assert NAME.encode() in everything(redis_url)

    async with replica(redis_url, **vault_settings) as running:
        assert await running.who(unit(1)) == ["p1"]
        await until(lambda: NAME.encode() not in everything(redis_url))
        assert await running.who(unit(1)) == ["p1"]
        assert (await running.pois.GetPoi(poi_pb2.GetPoiRequest(name=f"{PARENT}/pois/p1"))).display_name == NAME
    assert unit(2).astype("<f4").tobytes()[:16] not in everything(redis_url)


async def test_what_is_changed_before_its_turn_comes_is_sealed_with_the_change(
    redis_url: str, vault_settings: dict[str, Any]
) -> None:
    async with replica(redis_url) as running:
        await enrol(running)
    assert NAME.encode() in everything(redis_url)

    async with replica(redis_url, **vault_settings) as running:
        assert await running.who(unit(1)) == ["p1"]
        changed = poi_pb2.Poi(name=f"{PARENT}/pois/p1", severity=common_pb2.SEVERITY_HIGH)
        await running.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=changed, update_mask=FieldMask(paths=["severity"])))
        assert await running.who(unit(1)) == ["p1"]
        assert await running.who(unit(2)) == ["p2"]
    assert NAME.encode() not in everything(redis_url)


async def test_a_server_without_the_vault_does_not_serve_and_removes_nothing(
    redis_url: str, vault_settings: dict[str, Any]
) -> None:
    async with replica(redis_url, **vault_settings) as running:
        await enrol(running)
    kept = everything(redis_url)

    async with unloaded_replica(redis_url) as running:
        answer = await running.health.Check(health_pb2.HealthCheckRequest(service="poi.v1.PoiService"))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await running.pois.GetPoi(poi_pb2.GetPoiRequest(name=f"{PARENT}/pois/p1"))

    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert from_rpc(raised.value).reason == "UNOPENABLE"
    assert "no vault" in from_rpc(raised.value).message
    with redis.Redis.from_url(redis_url) as client:
        for field, value in client.hgetall(pois_key(STORE)).items():
            assert field in kept
            assert value in kept


async def test_a_record_in_anothers_place_is_noticed_and_keeps_nobody_else_from_being_matched(
    redis_url: str, vault_settings: dict[str, Any]
) -> None:
    async with replica(redis_url, **vault_settings) as running:
        await enrol(running)
    with redis.Redis.from_url(redis_url) as client:
        value = client.hget(pois_key(STORE), "p2")
        assert isinstance(value, bytes)
        client.hset(pois_key(STORE), "p1", value)

    async with replica(redis_url, **vault_settings) as running:
        assert await running.who(unit(2)) == ["p2"]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await running.pois.GetPoi(poi_pb2.GetPoiRequest(name=f"{PARENT}/pois/p1"))
    assert isinstance(from_rpc(raised.value), DataLoss)


async def test_a_store_without_keys_is_told_what_to_do(redis_url: str, keys: Keys) -> None:
    async with replica(redis_url, vault_keyring=keys.keyring, vault_master=keys.master) as running:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await running.enrol("p1", unit(1))

    told = from_rpc(raised.value)
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VAULT_UNUSABLE")
    assert f"init --store {STORE}" in told.message


async def test_pictures_are_sealed(redis_url: str, keys: Keys) -> None:
    keys.run("init", "--store", STORE)
    client = connections.connect(redis_url)

    async def settled(revision: int) -> None: ...

    registry = Registry(client, 1000, settled, Records(keys.vault()))
    name = f"{PARENT}/pois/p1/references/r1"
    poi = poi_pb2.Poi(name=f"{PARENT}/pois/p1", references=[poi_pb2.Reference(name=name, has_image=True)])
    picture = poi_pb2.ReferenceImage(image=b"\xff\xd8 a picture that nobody else has")
    await registry.create(STORE, poi, Request(), {name: picture.SerializeToString()})

    assert (await registry.picture(name)).image == picture.image
    assert picture.image not in everything(redis_url)
    keys.run("erase-store", STORE, "--confirm", STORE)
    with pytest.raises(Unopenable, match="were destroyed"):
        await registry.picture(name)
    assert await client.hlen(images_key(STORE)) == 1
    await client.aclose()
