"""Writes audit records: each waits in memory until it is durable, and whoever needs that waits for it.

What comes at the same time is written together, so that a record costs a call one round trip to Redis, however many
calls there are. While Redis is away records that nobody waits for are kept, as many as there is room for; when there
is none the oldest go, and how many is put on record when it is back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
from poi.v1 import audit_pb2
from prometheus_client import Counter

from mesh.audit import chain
from mesh.audit.actor import actor_from
from mesh.errors import Unavailable
from mesh.names import is_id
from mesh.redis import Redis

if TYPE_CHECKING:
    from mesh.auth import Refusal

_log = structlog.get_logger(__name__)

LOST: Final = "audit.RecordsLost"
_ROOM: Final = 10_000
_BATCH: Final = 256
_WAIT_SECONDS: Final = 3.0
"""How long a call waits for its record; then it is refused."""
_CLOSE_SECONDS: Final = 5.0
_FIRST_BACKOFF, _MAX_BACKOFF = 0.1, 2.0

WRITTEN = Counter("poi_audit_records_total", "Audit records that are durable.")
LOST_RECORDS = Counter(
    "poi_audit_records_lost_total", "Audit records for which there was no room while Redis was away."
)

_current: Auditor | None = None


class _Waiting(NamedTuple):
    store: str
    record: audit_pb2.AuditRecord
    done: asyncio.Future[None] | None
    """Of somebody who waits for it."""
    begins: bool = True
    """Whether a store that has no record yet gets its first one."""


class Auditor:
    """Writes the records of one process. Made in the event loop; close it from `Server.on_stop`."""

    def __init__(self, redis: Redis, server: str, default_store: str) -> None:
        """`server`: name of this service. `default_store`: whose chain takes records that are of no store."""
        self.server, self.default_store = server, default_store
        self._redis = redis
        self._chains: dict[str, chain.Chain] = {}
        self._waiting: deque[_Waiting] = deque()
        self._lost = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.create_task(self._run(), name="audit")

    async def write(self, store: str, record: audit_pb2.AuditRecord) -> None:
        """Returns when it is durable. Raises Unavailable (AUDIT_UNAVAILABLE); it may be written all the same."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if len(self._waiting) >= _ROOM:
            raise _unavailable()
        self._put(_Waiting(store, record, done))
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await done
        except TimeoutError:
            raise _unavailable() from None

    def note(self, store: str, record: audit_pb2.AuditRecord, *, begins: bool = True) -> None:
        """Writes the record soon. Never fails, and never waits.

        Without `begins`, a store that has no chain gets none for it: the record goes into the default store's.
        """
        self._put(_Waiting(store, record, None, begins))
        while len(self._waiting) > _ROOM:
            oldest = self._waiting.popleft()
            if oldest.done is not None and not oldest.done.done():
                oldest.done.set_exception(_unavailable())
            self._lost += 1
            LOST_RECORDS.inc()

    async def close(self) -> None:
        """Writes what waits, for 5 s at most. `record` does nothing from then on."""
        if _current is self:
            install(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._idle.wait()
        if not self._idle.is_set():
            _log.error("audit_records_lost", waiting=len(self._waiting))
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def _put(self, waiting: _Waiting) -> None:
        if not waiting.record.HasField("record_time"):
            waiting.record.record_time.GetCurrentTime()
        waiting.record.server = self.server
        self._waiting.append(waiting)
        self._idle.clear()
        self._wake.set()

    async def _run(self) -> None:
        backoff = _FIRST_BACKOFF
        while True:
            await self._wake.wait()
            batch = self._take()
            if not batch:
                self._wake.clear()
                self._idle.set()
                continue
            # Always the same records until they are written: the chain knows those again, and has none twice.
            while batch:
                try:
                    await self._append(batch)
                    batch, backoff = [], _FIRST_BACKOFF
                except Exception as error:  # whatever it is: without this task no call would be answered any more
                    _log.error("audit_unwritable", error=repr(error), waiting=len(self._waiting) + len(batch))
                    await asyncio.sleep(backoff)
                    backoff = min(2 * backoff, _MAX_BACKOFF)

    def _take(self) -> list[_Waiting]:
        """The next records, all of one store."""
        if self._lost:
            lost = event(LOST, "OK", records=str(self._lost))
            lost.record_time.GetCurrentTime()
            lost.server = self.server
            self._waiting.appendleft(_Waiting(self.default_store, lost, None))
            self._lost = 0
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < _BATCH and self._waiting[0].store == (batch or self._waiting)[0].store:
            batch.append(self._waiting.popleft())
        return batch

    async def _append(self, batch: list[_Waiting]) -> None:
        store = batch[0].store
        if not (store in self._chains or any(one.begins for one in batch) or await chain.exists(self._redis, store)):
            store = self.default_store
        if store not in self._chains:
            self._chains[store] = chain.Chain(self._redis, store)
        await self._chains[store].append([one.record for one in batch])
        WRITTEN.inc(len(batch))
        for one in batch:
            if one.done is not None and not one.done.done():
                one.done.set_result(None)


def install(auditor: Auditor | None) -> None:
    """Makes this the one that `record` writes with; None for none."""
    global _current
    _current = auditor


def event(action: str, result: str, resource: str = "", **details: str) -> audit_pb2.AuditRecord:
    """A record of something that is no call. `result`: the name of a gRPC status."""
    made = audit_pb2.AuditRecord(action=action, code=result, resource=resource, phase=audit_pb2.AUDIT_PHASE_EVENT)
    made.details.update(details)
    made.actor.kind = audit_pb2.ACTOR_KIND_SERVER
    return made


async def record(
    action: str,
    resource: str,
    result: str,
    *,
    store: str = "",
    actor: audit_pb2.AuditActor | None = None,
    peer: str = "",
    purpose: str = "",
    durable: bool = True,
    begins: bool = True,
    call_id: str = "",
    **details: str,
) -> None:
    """Writes one record of this process; does nothing where auditing is off.

    Args:
        action: the method, `poi.v1.PoiService/CreatePoi`, or an event of the caller's.
        resource: what it was about; its store's chain takes the record unless `store` is given.
        result: name of a gRPC status, such as PERMISSION_DENIED.
        actor: who; this server itself when None.
        durable: whether to wait until it is; Unavailable (AUDIT_UNAVAILABLE) when it cannot be.
        begins: see `Auditor.note`; of a record that nobody waits for.
        call_id: of a change, which has a record with an empty result before it and one with its result after it.
    """
    auditor = _current
    if auditor is None:
        return
    made = event(action, result, resource, **details)
    made.peer, made.purpose = peer, purpose
    if call_id:
        made.phase = audit_pb2.AUDIT_PHASE_END if result else audit_pb2.AUDIT_PHASE_BEGIN
        made.call_id = call_id
    if actor is not None:
        made.actor.CopyFrom(actor)
    chosen = store or store_of(resource) or auditor.default_store
    if durable:
        await auditor.write(chosen, made)
    else:
        auditor.note(chosen, made, begins=begins)


async def record_refusal(refusal: Refusal) -> None:
    """Writes what authorisation did not let through: give it to mesh.auth.Refusals.

    The detail `more` says how many there were of the same caller before it that have no record.
    """
    actor = None if refusal.principal is None else actor_from(refusal.principal)
    more = {"more": str(refusal.more)} if refusal.more else {}
    await record(
        refusal.method,
        refusal.resource,
        refusal.code,
        actor=actor or audit_pb2.AuditActor(),
        peer=refusal.peer,
        durable=False,  # a Redis that is away must not change what the caller is told
        begins=False,  # whoever is refused may name any store: those that there are not must not come to be
        reason=refusal.reason,
        **more,
    )


def store_of(resource: str) -> str:
    """The store in a resource name; empty for one that has none."""
    parts = resource.split("/", 2)
    if len(parts) < 2 or parts[0] != "stores" or not is_id(parts[1]):
        return ""
    return parts[1]


def _unavailable() -> Unavailable:
    return Unavailable("the audit log cannot be written", reason="AUDIT_UNAVAILABLE", retry_after=1.0)
