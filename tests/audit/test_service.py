"""AuditService, as its own process and in this one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import grpc
import pytest
from poi.v1 import alert_pb2, audit_pb2, audit_pb2_grpc

from mesh.audit import chain
from mesh.errors import from_rpc
from mesh.redis import Redis
from tests.audit.support import ALERT, PARENT, STORE, Audited, a_record, audited
from tests.conftest import StartService


@pytest.fixture
async def server(redis_url: str) -> AsyncIterator[Audited]:
    async with audited(redis_url) as running:
        yield running


async def filled(redis: Redis, count: int) -> None:
    made = chain.Chain(redis, STORE)
    for start in range(0, count, 100):
        many = [a_record(f"test.{'even' if number % 2 == 0 else 'odd'}") for number in range(start, start + 100)]
        await made.append(many)


async def test_records_are_listed_newest_first_in_pages(server: Audited) -> None:
    await filled(server.redis, 600)
    request = audit_pb2.ListAuditRecordsRequest(parent=PARENT, page_size=250)
    request.filter.action = "test.even"
    found: list[int] = []
    while True:
        page = await server.audit.ListAuditRecords(request)
        found += [record.sequence for record in page.audit_records]
        request.page_token = page.next_page_token
        if not request.page_token:
            break

    assert found == list(range(599, 0, -2))


async def test_filters_choose_by_who_what_when_and_how_it_went(server: Audited) -> None:
    name = f"{PARENT}/alerts/gone"
    await server.alerts.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=ALERT, actor="ada"))
    with pytest.raises(grpc.aio.AioRpcError):
        await server.alerts.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=name, actor="bob"))

    async def resources(**wanted: object) -> list[tuple[str, str]]:
        request = audit_pb2.ListAuditRecordsRequest(
            parent=PARENT,
            filter=audit_pb2.AuditFilter(action="AcknowledgeAlert", **wanted),  # type: ignore[arg-type]
        )
        page = await server.audit.ListAuditRecords(request)
        return [(record.resource, record.code) for record in page.audit_records]

    assert await resources(actor="ada") == [(ALERT, "OK"), (ALERT, "")]
    assert await resources(codes=["NOT_FOUND"]) == [(name, "NOT_FOUND")]
    assert await resources(resource=name) == [(name, "NOT_FOUND"), (name, "")]
    assert len(await resources(resource=PARENT)) == 4
    assert await resources(resource=f"{PARENT}/alerts/a") == [], "a name, not the beginning of one"


async def test_an_export_can_be_verified_without_the_server(server: Audited) -> None:
    await filled(server.redis, 300)

    exported = [
        record
        async for response in server.audit.ExportAudit(audit_pb2.ExportAuditRequest(parent=PARENT))
        for record in response.records
    ]

    previous = chain.genesis(STORE)
    for one in exported:
        assert one.audit_record.previous_hash == previous.hex()
        previous = hashlib.sha256(previous + one.content).digest()
        assert one.audit_record.hash == previous.hex()
        assert audit_pb2.AuditRecord.FromString(one.content).action == one.audit_record.action
    assert [one.audit_record.sequence for one in exported][:300] == list(range(1, 301))


async def test_who_looks_at_the_records_is_recorded(server: Audited) -> None:
    await filled(server.redis, 100)
    found = await server.audit.VerifyChain(
        audit_pb2.VerifyChainRequest(parent=PARENT), metadata=(("actor", "the auditor"),)
    )
    last = (await server.records())[-1]

    assert (found.sound, found.record_count, found.first_sequence, found.last_sequence) == (True, 100, 1, 100)
    assert (last.action, last.actor.name) == ("poi.v1.AuditService/VerifyChain", "the auditor")
    assert last.previous_hash == found.last_hash


async def test_tampering_is_said_with_its_place(server: Audited) -> None:
    await filled(server.redis, 100)
    await server.redis.xdel(chain.log_key(STORE), "40-0", "41-0")

    found = await server.audit.VerifyChain(audit_pb2.VerifyChainRequest(parent=PARENT))

    assert not found.sound
    (fault,) = found.faults
    assert (fault.first_sequence, fault.last_sequence) == (40, 41)
    assert fault.description == "2 record(s) are missing"


async def test_it_runs_as_a_server_of_its_own(redis_url: str, redis: Redis, service: StartService) -> None:
    await filled(redis, 100)
    server = service("mesh.audit", {"POI_REDIS_URL": redis_url, "POI_AUDIT_RETENTION_DAYS": "365"})

    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = audit_pb2_grpc.AuditServiceStub(channel)
        found = await stub.VerifyChain(audit_pb2.VerifyChainRequest(parent=PARENT))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ListAuditRecords(audit_pb2.ListAuditRecordsRequest(parent="s1"))

    assert found.sound
    assert found.last_sequence == 100
    assert from_rpc(raised.value).code is grpc.StatusCode.INVALID_ARGUMENT
