"""A client of the eraser."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from poi.v1 import erasure_pb2, erasure_pb2_grpc

from mesh import channels
from mesh.erasure import receipts
from mesh.errors import MeshError, from_rpc

DONE = erasure_pb2.ERASURE_STATE_DONE
INCOMPLETE = erasure_pb2.ERASURE_STATE_INCOMPLETE


class Eraser:
    """Erases persons of a store."""

    def __init__(self, channel: grpc.aio.Channel, parent: str) -> None:
        self.stub: erasure_pb2_grpc.ErasureServiceAsyncStub = erasure_pb2_grpc.ErasureServiceStub(channel)
        self.parent = parent

    def person(self, poi_id: str) -> erasure_pb2.ErasedPerson:
        """A person of interest."""
        return erasure_pb2.ErasedPerson(poi=f"{self.parent}/pois/{poi_id}")

    async def plan(self, person: erasure_pb2.ErasedPerson) -> erasure_pb2.PersonErasure:
        """What there is."""
        request = erasure_pb2.ErasePersonRequest(parent=self.parent, person=person, validate_only=True)
        return await self.stub.ErasePerson(request, timeout=60)

    def request(
        self, person: erasure_pb2.ErasedPerson, plan: erasure_pb2.PersonErasure
    ) -> erasure_pb2.ErasePersonRequest:
        """To carry a plan out."""
        return erasure_pb2.ErasePersonRequest(
            parent=self.parent, person=person, plan=plan.plan, request_id=str(uuid.uuid4())
        )

    async def erase(self, request: erasure_pb2.ErasePersonRequest) -> erasure_pb2.PersonErasure:
        """Carries it out."""
        return await self.stub.ErasePerson(request, timeout=120)

    async def done(self, request: erasure_pb2.ErasePersonRequest) -> erasure_pb2.PersonErasure:
        """The same, again and again until it is done, whoever is away meanwhile."""
        async with asyncio.timeout(90):
            while True:
                try:
                    found = await self.erase(request)
                    if found.state == DONE:
                        return found
                except grpc.aio.AioRpcError as error:
                    if not from_rpc(error).retryable:
                        raise
                await asyncio.sleep(0.3)

    async def check(self, done: erasure_pb2.PersonErasure) -> dict[str, int]:
        """Verifies the receipt; what it says was removed, by keeper and kind."""
        key = await self.stub.GetReceiptKey(erasure_pb2.GetReceiptKeyRequest(name=f"{self.parent}/receiptKey"))
        content = receipts.verify(receipts.as_file(done.receipt), key.pem.encode())
        assert content["name"] == done.name
        return {f"{one['keeper']}: {one['kind']}": one["count"] for one in content["removed"]}


@asynccontextmanager
async def erasing(target: str, store: str) -> AsyncIterator[Eraser]:
    """The eraser of a mesh."""
    channel = channels.connect(target, metadata={"actor": "the officer", "purpose": "GDPR, Art. 17"})
    try:
        yield Eraser(channel, f"stores/{store}")
    finally:
        await channel.close()


async def refusal(call: object) -> MeshError:
    """How a call fails."""
    try:
        await call  # type: ignore[misc]
    except grpc.aio.AioRpcError as error:
        return from_rpc(error)
    raise AssertionError("it was not refused")
