"""A deleted person's photos are served by nobody, and nothing of them is left in Redis."""

from __future__ import annotations

import itertools
from typing import Any

import grpc
import pytest
import redis.asyncio
from poi.v1 import poi_pb2

from tests.e2e.floor import floor
from tests.e2e.store import Store

pytestmark = pytest.mark.timeout(300)  # many processes, also on a machine with other work


async def test_a_deleted_persons_photos_are_no_longer_served(store: Store) -> None:
    async with floor(store) as here:
        service = here.client.pois_service
        man = await service.GetPoi(poi_pb2.GetPoiRequest(name=f"{here.parent}/pois/man", view=poi_pb2.POI_VIEW_FULL))
        pictures = {}
        for reference in man.references:
            shown = await service.GetReferenceImage(poi_pb2.GetReferenceImageRequest(name=reference.name))
            assert shown.image.startswith(b"\xff\xd8\xff")
            pictures[reference.name] = shown.image
        vectors = [one.vector for reference in man.references for one in reference.embeddings]
        assert len(pictures) >= 2
        assert vectors
        secrets = [*pictures.values(), *vectors]
        assert await _kept(store.mesh.redis_url, secrets), "or this looks in the wrong place"

        await here.client.forget("man")

        for name in pictures:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await service.GetReferenceImage(poi_pb2.GetReferenceImageRequest(name=name))
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert not await _kept(store.mesh.redis_url, secrets)


async def _kept(redis_url: str, secrets: list[bytes]) -> list[bytes]:
    """Keys whose values hold any of these."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        values = {key: await _value(client, key) async for key in client.scan_iter()}
    return [key for key, value in values.items() if any(secret in value for secret in secrets)]


async def _value(client: Any, key: bytes) -> bytes:
    """All that is in a key."""
    kind = await client.type(key)
    if kind == b"hash":
        return b"".join(itertools.chain.from_iterable((await client.hgetall(key)).items()))
    if kind == b"stream":
        return b"".join(part for _, fields in await client.xrange(key) for item in fields.items() for part in item)
    if kind == b"zset":
        return b"".join(await client.zrange(key, 0, -1))
    if kind == b"set":
        return b"".join(await client.smembers(key))
    if kind == b"list":
        return b"".join(await client.lrange(key, 0, -1))
    return await client.get(key) or b""
