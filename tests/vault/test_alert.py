"""The alert service over a vault: what lets somebody in elsewhere, and who exported what, is sealed."""

from __future__ import annotations

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from poi.v1 import delivery_pb2

from alert_svc.delivery.store import TargetStore
from alert_svc.export.records import ExportRecords
from mesh import redis as connections
from mesh.errors import Aborted
from mesh.local import Redis
from mesh.vault import Box
from tests.conftest import StartService
from tests.delivery.receiver import Receiver, receiving
from tests.delivery.support import FAST, SECRET, client_of
from tests.vault.conftest import STORE, Keys
from tests.vault.redis_bytes import everything

PARENT = f"stores/{STORE}"
HEADER = "Bearer that nobody else has"


async def test_delivery_secrets_are_sealed_and_deliveries_go_on(
    redis_url: str, keys: Keys, service: StartService
) -> None:
    usual = {**FAST, "POI_ALERT_DELIVERY_TIMEOUT_SECONDS": "20"}
    plain = {**usual, "POI_REDIS_URL": redis_url, "POI_STORE": STORE, "POI_ALERT_EVIDENCE": "false"}
    sealing = {**plain, **keys.environment}
    async with receiving(Receiver()) as receiver:
        before = service("alert_svc", plain, name="before")
        async with client_of(before.target, PARENT) as client:
            await client.webhook(receiver.url, "old")
        before.stop()
        assert SECRET.encode() in everything(redis_url)

        server = service("alert_svc", sealing)
        async with client_of(server.target, PARENT) as client:
            made = await client.create(
                "new", webhook=delivery_pb2.WebhookTarget(url=receiver.url, secret=SECRET, headers={"X-Key": HEADER})
            )
            assert HEADER.encode() not in everything(redis_url)
            assert not (await client.test("new")).error
            assert not (await client.test("old")).error, "what was there before is read"
            for target_id in ("old", "new"):
                named = delivery_pb2.Target(name=f"{PARENT}/targets/{target_id}", display_name="renamed")
                request = delivery_pb2.UpdateTargetRequest(target=named, update_mask=FieldMask(paths=["display_name"]))
                assert (await client.delivery.UpdateTarget(request)).etag != made.etag
            assert SECRET.encode() not in everything(redis_url), "and sealed with its next change"
            assert not (await client.test("new")).error, "its secrets are as they were"
            await client.delete_all()


@pytest.fixture
def box(keys: Keys) -> Box:
    return keys.vault()


async def test_of_two_changes_at_once_one_is_told(redis_server: Redis, redis_url: str, box: Box) -> None:
    client = connections.connect(redis_url)
    store = TargetStore(client, retention_days=1, keep=10, heartbeat=0.2, box=box)
    before = delivery_pb2.Target(name=f"{PARENT}/targets/t", etag="1")
    await store.create(before, "0-0")
    assert (await store.get(before.name)).etag == "1"
    assert [one.etag for one in await store.of_store(STORE)] == ["1"]

    await store.change(before, delivery_pb2.Target(name=before.name, etag="2"))
    with pytest.raises(Aborted):
        await store.change(before, delivery_pb2.Target(name=before.name, etag="3"))
    with pytest.raises(Aborted):
        await store.delete(before)
    await store.delete(delivery_pb2.Target(name=before.name, etag="2"))

    assert await store.of_store(STORE) == []
    await client.aclose()


async def test_a_target_that_cannot_be_opened_keeps_no_other_from_delivery(redis_url: str, box: Box) -> None:
    client = connections.connect(redis_url)
    store = TargetStore(client, retention_days=1, keep=10, heartbeat=0.2, box=box)
    for target_id in ("a", "b"):
        await store.create(delivery_pb2.Target(name=f"{PARENT}/targets/{target_id}", etag=target_id), "0-0")
    value = await client.hget(f"poi:{{{STORE}}}:targets", "a")
    await client.hset(f"poi:{{{STORE}}}:targets", "b", value)

    assert [one.etag for one in await store.of_store(STORE)] == ["a"]
    await client.aclose()


async def test_who_exported_what_is_sealed(redis_url: str, box: Box) -> None:
    client = connections.connect(redis_url)
    exports = ExportRecords(client, retention_days=1, box=box)
    made = await exports.add(f"{PARENT}/alerts/a1", "an actor that nobody else is", "case 7", "2026-01-01T00:00:00Z")

    assert await exports.of(f"{PARENT}/alerts/a1") == [made]
    assert b"an actor that nobody else is" not in everything(redis_url)
    await client.aclose()
