"""AuditService: translates between the contract and the chain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.message import DecodeError
from poi.v1 import audit_pb2, audit_pb2_grpc

from mesh import names, pages
from mesh.audit import chain
from mesh.audit.verify import verify
from mesh.redis import Redis
from mesh.streams import until_drained

SERVICE: Final = "poi.v1.AuditService"
_DEFAULT_PAGE, _MAX_PAGE = 100, 1000
_MOST_READ: Final = 5_000
"""Records that one page looks at: a filter that few pass gives a short page, not a long wait."""
_CHUNK: Final = 256


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """Serves AuditService."""

    def __init__(self, redis: Redis, draining: asyncio.Event) -> None:
        self._redis, self._draining = redis, draining

    async def ListAuditRecords(
        self, request: audit_pb2.ListAuditRecordsRequest, context: object
    ) -> audit_pb2.ListAuditRecordsResponse:
        """Newest first."""
        (store,) = names.parse_store(request.parent)
        size = pages.clamp(request.page_size, _DEFAULT_PAGE, _MAX_PAGE)
        before: int | None = pages.decode(request.page_token, request, before=_sequence).get("before")
        response, read = audit_pb2.ListAuditRecordsResponse(), 0
        while read < _MOST_READ and len(response.audit_records) < size:
            entries = await chain.newest_first(self._redis, store, before, _CHUNK)
            for entry in entries:
                read, before = read + 1, entry.sequence
                record = _record(entry, store)
                if passes(record, request.filter):
                    response.audit_records.append(record)
                    if len(response.audit_records) == size:
                        break
            if len(entries) < _CHUNK and (not entries or before == entries[-1].sequence):
                return response
        response.next_page_token = pages.encode({"before": before}, request)
        return response

    async def ExportAudit(
        self, request: audit_pb2.ExportAuditRequest, context: Any
    ) -> AsyncIterator[audit_pb2.ExportAuditResponse]:
        """Oldest first."""
        (store,) = names.parse_store(request.parent)
        async for page in until_drained(chain.oldest_first(self._redis, store), self._draining):
            response = audit_pb2.ExportAuditResponse()
            for entry in page:
                record = _record(entry, store)
                if passes(record, request.filter):
                    response.records.add(audit_record=record, content=entry.content)
            if response.records:
                yield response

    async def VerifyChain(
        self, request: audit_pb2.VerifyChainRequest, context: object
    ) -> audit_pb2.VerifyChainResponse:
        """The whole chain."""
        (store,) = names.parse_store(request.parent)
        found = await verify(self._redis, store, request.known_sequence, request.known_hash)
        return audit_pb2.VerifyChainResponse(
            sound=not found.fault_count,
            faults=found.faults,
            fault_count=found.fault_count,
            record_count=found.count,
            first_sequence=found.first_sequence,
            last_sequence=found.last_sequence,
            last_hash=found.last_hash,
        )


def passes(record: audit_pb2.AuditRecord, wanted: audit_pb2.AuditFilter) -> bool:
    """Whether a record passes a filter."""
    at = record.record_time.ToNanoseconds()
    span = wanted.interval
    return (
        (not span.HasField("start_time") or at >= span.start_time.ToNanoseconds())
        and (not span.HasField("end_time") or at < span.end_time.ToNanoseconds())
        and (not wanted.actor or record.actor.name == wanted.actor)
        and wanted.action in record.action
        and (not wanted.resource or f"{record.resource}/".startswith(f"{wanted.resource}/"))
        and (not wanted.codes or record.code in wanted.codes)
        and (not wanted.call_id or record.call_id == wanted.call_id)
    )


def _sequence(value: object) -> int:
    """For `pages.decode`: a record's."""
    sequence = pages.whole(value)
    if sequence < 0:
        raise ValueError
    return sequence


def _record(entry: chain.Entry, store: str) -> audit_pb2.AuditRecord:
    """The record; one that cannot be read is shown as such, with its place and hashes."""
    try:
        return entry.record(store)
    except DecodeError:
        unread = audit_pb2.AuditRecord(name=names.audit_record(store, entry.sequence), sequence=entry.sequence)
        unread.action, unread.code = "audit.Unreadable", "DATA_LOSS"
        unread.previous_hash, unread.hash = entry.previous.hex(), entry.hash.hex()
        return unread
