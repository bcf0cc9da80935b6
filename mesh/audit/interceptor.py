"""Writes the audit records of calls, as `methods` says. It runs inside authorisation: who may not call has no record of
its own here, but one of the refusal that whoever refuses writes (`record`).

Who called is the principal that authorisation found; without any, whoever they say they are (metadata `actor`, else the
request's own field), which the record marks as claimed.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import grpc
from poi.v1 import audit_pb2

from mesh.audit.actor import MOST_TEXT, actor_of, claimed, metadata_of, purpose_of
from mesh.audit.methods import AUDITED, Audited
from mesh.audit.paths import text_at, value_at
from mesh.audit.recorder import Auditor, store_of
from mesh.errors import MeshError, PermissionDenied
from mesh.interceptors.base import Behaviour, Interceptor, Rpc
from mesh.interceptors.errors import translate
from mesh.peers import peer_of

_CODES: Final[dict[int, str]] = {code.value[0]: code.name for code in grpc.StatusCode}


class AuditInterceptor(Interceptor):
    """See the module."""

    def __init__(self, auditor: Auditor, *, require_purpose: bool = False) -> None:
        """`require_purpose`: refuse a call that must say why and does not (PURPOSE_REQUIRED)."""
        self._auditor, self._require_purpose = auditor, require_purpose

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Write what the table says of this method; nothing of others."""
        action = f"{rpc.service}/{rpc.method}"
        how = AUDITED.get(action)
        if how is None:
            return behaviour
        streams = rpc.request_streaming or rpc.response_streaming

        async def run(request: Any, context: Any) -> Any:
            call = _Call(self._auditor, how, action, context)
            if not rpc.request_streaming:
                call.about(request)
                await self._check_purpose(call)
                if how.change or streams:
                    await call.begin()
                return await call.end_of(behaviour(request, context), streams=streams)
            await self._check_purpose(call)
            passed = _Answering(context, call) if how.items else context
            return await call.end_of(behaviour(call.watched(request), passed), streams=True)

        return run

    async def _check_purpose(self, call: _Call) -> None:
        if self._require_purpose and call.how.purpose and not call.purpose:
            refusal = PermissionDenied("say why: metadata `purpose`", reason="PURPOSE_REQUIRED")
            await call.refused(refusal)
            raise refusal


class _Call:
    """The records of one call."""

    def __init__(self, auditor: Auditor, how: Audited, action: str, context: Any) -> None:
        self.how = how
        self._auditor, self._action = auditor, action
        self._metadata = metadata_of(context)
        self._peer, self._id = peer_of(context), uuid.uuid4().hex
        self._resource = self._request_id = ""
        self._actor, self.purpose = actor_of(self._metadata), purpose_of(self._metadata)
        self._begun = False
        self._messages = 0

    def about(self, request: Any) -> None:
        """Takes from the (first) request what the records say."""
        self._resource = text_at(request, self.how.below) or text_at(request, self.how.resource)
        self._request_id = text_at(request, "request_id")
        if not self._actor.name:
            self._actor = claimed(text_at(request, "actor"))
        self.purpose = self.purpose or text_at(request, "purpose")[:MOST_TEXT]

    async def begin(self) -> None:
        """The record of the beginning. Raises Unavailable (AUDIT_UNAVAILABLE)."""
        self._begun = True
        record = self._record(audit_pb2.AUDIT_PHASE_BEGIN, "")
        if self.how.feed:
            self._auditor.note(self._store, record)
        else:
            await self._auditor.write(self._store, record)

    async def watched(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The requests; the first one, and each that is a change, is on record before it is handed on."""
        async for request in requests:
            self._messages += 1
            if not self._begun:
                self.about(request)
                await self.begin()
            if self.how.items:
                self.about(request)
                record = self._record(audit_pb2.AUDIT_PHASE_ITEM, "")
                await self._auditor.write(self._store, record)
            yield request

    async def item_done(self, answer: Any) -> None:
        """The record of the answer to one message. Raises Unavailable."""
        number = value_at(answer, self.how.items) or 0
        record = self._record(audit_pb2.AUDIT_PHASE_ITEM_END, _CODES.get(number, "UNKNOWN"))
        record.resource = text_at(answer, self.how.made) or record.resource
        await self._auditor.write(self._store, record)

    async def end_of(self, running: Any, *, streams: bool) -> Any:
        """The answer of the call, once the record of its end is durable; of a stream's end it soon will be."""
        try:
            answer = await running
        except Exception as error:
            await self._failed(_code(error))
            raise
        except BaseException:  # the client went away, or its time was up
            self._auditor.note(self._store, self._record(audit_pb2.AUDIT_PHASE_END, "CANCELLED"))
            raise
        record = self._record(audit_pb2.AUDIT_PHASE_END, "OK")
        if self.how.made and answer is not None:
            record.resource = text_at(answer, self.how.made) or record.resource
        if streams:  # all of it was said already
            self._count(record)
            self._auditor.note(self._store, record)
        else:
            await self._auditor.write(self._store, record)
        return answer

    async def refused(self, error: MeshError) -> None:
        """The record of a call that was not let in."""
        await self._failed(_code(error), reason=error.reason)

    async def _failed(self, code: str, **details: str) -> None:
        record = self._record(audit_pb2.AUDIT_PHASE_END, code)
        record.details.update(details)
        self._count(record)
        if self.how.feed:
            self._auditor.note(self._store, record)
            return
        with suppress(MeshError):  # it fails already, and the record is written as soon as it can be
            await self._auditor.write(self._store, record)

    @property
    def _store(self) -> str:
        return store_of(self._resource) or self._auditor.default_store

    def _count(self, record: audit_pb2.AuditRecord) -> None:
        if self._messages:
            record.details["messages"] = str(self._messages)

    def _record(self, phase: audit_pb2.AuditPhase.ValueType, code: str) -> audit_pb2.AuditRecord:
        identity = "\0".join(
            (self._action, self._resource, self._metadata.get("x-request-id", ""), self._request_id)
        ).encode()
        return audit_pb2.AuditRecord(
            actor=self._actor,
            action=self._action,
            phase=phase,
            call_id=self._id,
            resource=self._resource,
            purpose=self.purpose,
            peer=self._peer,
            code=code,
            request_hash=hashlib.sha256(identity).hexdigest(),
        )


class _Answering:
    """The context of a stream whose answers are recorded before they are sent."""

    def __init__(self, context: Any, call: _Call) -> None:
        self._context, self._call = context, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        await self._call.item_done(message)
        await self._context.write(message)


def _code(error: Exception) -> str:
    known = translate(error)
    return known.code.name if known else "INTERNAL"
