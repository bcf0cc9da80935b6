"""A registry that asks a second person, and requests that wait for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from poi.v1 import approval_pb2, approval_pb2_grpc, poi_pb2

from mesh import redis as connections
from mesh.approvals.interceptor import ApprovalInterceptor
from mesh.approvals.service import SERVICE, ApprovalServicer
from mesh.approvals.store import Approvals
from mesh.errors import from_rpc
from mesh.redis import Redis
from mesh.server import Server
from tests.audit.support import Settings
from tests.match_svc.support import STORE as PARENT
from tests.match_svc.support import Replica, replica
from tests.support import embedding, unit, valid_poi
from tests.vault.conftest import Keys

STORE = PARENT.rpartition("/")[2]
NAME = "a name that nobody else has"


POI = valid_poi(display_name=NAME)


def who(name: str, purpose: str = "case 7") -> Any:
    return (("actor", name), ("purpose", purpose))


def wanted(poi_id: str = "p1", **fields: Any) -> poi_pb2.CreatePoiRequest:
    return poi_pb2.CreatePoiRequest(
        parent=PARENT,
        poi_id=poi_id,
        poi=POI,
        embeddings=[embedding(unit(1))],
        allow_duplicate=True,
        **fields,
    )


@dataclass
class Eyes:
    """A registry that asks, and whom it asks."""

    match: Replica
    approvals: approval_pb2_grpc.ApprovalServiceAsyncStub
    redis: Redis
    url: str

    async def needs(self, **settings: Any) -> None:
        name = f"{PARENT}/approvalSettings"
        await self.approvals.UpdateApprovalSettings(
            approval_pb2.UpdateApprovalSettingsRequest(
                approval_settings=approval_pb2.ApprovalSettings(name=name, **settings)
            )
        )

    async def asked(self, request: poi_pb2.CreatePoiRequest, actor: str = "ada") -> str:
        """The approval that a request waits for."""
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.match.pois.CreatePoi(request, metadata=who(actor))
        told = from_rpc(raised.value)
        assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "APPROVAL_REQUIRED")
        return told.metadata["approval"]

    async def approve(self, name: str, actor: str = "bob") -> approval_pb2.Approval:
        return await self.approvals.Approve(approval_pb2.ApproveRequest(name=name, note="seen"), metadata=who(actor))

    async def people(self) -> list[str]:
        listed = await self.match.pois.ListPois(poi_pb2.ListPoisRequest(parent=PARENT))
        return sorted(poi.name.rpartition("/")[2] for poi in listed.pois)


@pytest.fixture
async def eyes(redis_url: str, keys: Keys) -> AsyncIterator[Eyes]:
    keys.run("init", "--store", STORE)
    client = connections.connect(redis_url)
    approvals = Approvals(client, keys.vault())
    server = Server(Settings(drain_seconds=0.0, grace_seconds=1.0), interceptors=[ApprovalInterceptor(approvals)])
    server.add(
        approval_pb2_grpc.add_ApprovalServiceServicer_to_server,
        ApprovalServicer(approvals),
        SERVICE,
    )
    vault = {"vault_keyring": keys.keyring, "vault_master": keys.master}
    async with (
        server,
        grpc.aio.insecure_channel(server.address) as channel,
        replica(redis_url, **vault, approvals_redis_url=redis_url, audit_redis_url=redis_url) as match,
    ):
        yield Eyes(match, approval_pb2_grpc.ApprovalServiceStub(channel), client, redis_url)
    await client.aclose()
