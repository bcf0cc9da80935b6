"""A store's audit records in Redis: an append-only chain.

`poi:{store}:audit` is a stream. The id of an entry is `<sequence>-0`, so that a missing one shows; its fields are `r`
(the record, serialized without its name and hashes), `p` (SHA-256 of the record before, 32 bytes) and `h` (SHA-256 of
`p` and `r`). The first record's `p` is `genesis(store)`. `poi:{store}:audit:head` (hash: sequence, hash) says where the
chain ends. `poi:audit:stores` is the set of stores.

One script appends, and only behind the end that the writer knew: of two writers at once the second is told the new end
and tries again. It bears being run twice. Old records go only together with a record that is added by the same script
and names the last one gone with its hash (`audit.Trimmed`): what is left goes on proving itself. Redis 6.2 or later.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, NamedTuple

import structlog
from poi.v1 import audit_pb2

from mesh import names
from mesh.redis import Redis

_log = structlog.get_logger(__name__)

STORES: Final = "poi:audit:stores"
TRIMMED: Final = "audit.Trimmed"
WENT_BACK: Final = "audit.ChainWentBack"
THROUGH: Final = "through_sequence"
"""Detail of both: the last record that went, or that was known."""
THROUGH_HASH: Final = "through_hash"
"""Detail of both: its hash, in hex."""
_PAGE: Final = 256

# KEYS log, head; ARGV sequence and hash of the end that is known, id before which to trim or "", then of each record
# id, record, previous hash, hash. Answers {1 when it is written, else 0, sequence and hash of the end before, and the
# hash of the record that the writer took for the end, "" where there is none with that sequence}.
# A head that is gone, or behind the log, gives way to the log's last entry; and a sequence that was there once is not
# given again, so that entries that somebody removed at the end leave a gap.
_APPEND: Final = """
local head = redis.call('HMGET', KEYS[2], 'sequence', 'hash')
local at, hash = tonumber(head[1] or '0'), head[2] or ''
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and tonumber(string.match(last[1], '^%d+')) > at then
  at = tonumber(string.match(last[1], '^%d+'))
  for i = 1, #last[2], 2 do if last[2][i] == 'h' then hash = last[2][i + 1] end end
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  local about = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' then at = math.max(at, tonumber(string.match(about[i + 1], '^%d+'))) end
  end
end
local ours = redis.call('XRANGE', KEYS[1], ARGV[#ARGV - 3], ARGV[#ARGV - 3])[1]
if ours then
  for i = 1, #ours[2], 2 do
    if ours[2][i] == 'h' and ours[2][i + 1] == ARGV[#ARGV] then return {1, at, hash} end
  end
end
if at ~= tonumber(ARGV[1]) or hash ~= ARGV[2] then
  local theirs = redis.call('XRANGE', KEYS[1], ARGV[1] .. '-0', ARGV[1] .. '-0')[1]
  local instead = ''
  for i = 1, theirs and #theirs[2] or 0, 2 do if theirs[2][i] == 'h' then instead = theirs[2][i + 1] end end
  return {0, at, hash, instead}
end
for i = 4, #ARGV, 4 do
  redis.call('XADD', KEYS[1], ARGV[i], 'r', ARGV[i + 1], 'p', ARGV[i + 2], 'h', ARGV[i + 3])
end
redis.call('HSET', KEYS[2], 'sequence', string.match(ARGV[#ARGV - 3], '^%d+'), 'hash', ARGV[#ARGV])
if ARGV[3] ~= '' then redis.call('XTRIM', KEYS[1], 'MINID', ARGV[3]) end
return {1, at, hash}
"""


class End(NamedTuple):
    """Where a chain ends; (0, b"") before its first record."""

    sequence: int
    hash: bytes


class Entry(NamedTuple):
    """A record as it lies there."""

    sequence: int
    content: bytes
    previous: bytes
    hash: bytes

    def record(self, store: str) -> audit_pb2.AuditRecord:
        """The record with its name and hashes. Raises google.protobuf.message.DecodeError for one that is none."""
        record = audit_pb2.AuditRecord.FromString(self.content)
        record.name = names.audit_record(store, self.sequence)
        record.previous_hash, record.hash = self.previous.hex(), self.hash.hex()
        return record


def log_key(store: str) -> str:
    """The stream of a store's records."""
    return f"poi:{{{store}}}:audit"


def head_key(store: str) -> str:
    """Where it is said where the chain ends."""
    return f"poi:{{{store}}}:audit:head"


def genesis(store: str) -> bytes:
    """What the first record of a store has for the hash of the one before."""
    return hashlib.sha256(b"poi-mesh audit chain\0" + store.encode()).digest()


def link(previous: bytes, content: bytes) -> bytes:
    """The hash of a record."""
    return hashlib.sha256(previous + content).digest()


class Chain:
    """The chain of one store. One append at a time."""

    def __init__(self, redis: Redis, store: str) -> None:
        self._redis, self._store = redis, store
        self._script = redis.register_script(_APPEND)
        self._end = End(0, b"")
        self._known = False

    async def append(self, records: Sequence[audit_pb2.AuditRecord], *, trim_before: int = 0) -> End:
        """Adds the records in order, durably; the end of the chain afterwards.

        Sets their sequences. With `trim_before`, removes the records with lower sequences in the same step. Raises what
        redis raises when Redis cannot be reached: then it is not known whether they are there. The same records in a
        next call are not written twice.
        """
        if not self._known:
            await _awaited(self._redis.sadd(STORES, self._store))
        written = list(records)
        while True:
            arguments, end = self._arguments(written, trim_before)
            done, sequence, found, *instead = await self._script(
                keys=[log_key(self._store), head_key(self._store)], args=arguments
            )
            if done:
                self._end, self._known = end, True
                return end
            if self._look_back(written, End(int(sequence), found), instead[0]):
                await _awaited(self._redis.sadd(STORES, self._store))  # which may be lost as well

    def _arguments(self, records: Sequence[audit_pb2.AuditRecord], trim_before: int) -> tuple[list[Any], End]:
        sequence, known = self._end
        arguments: list[Any] = [sequence, known, f"{trim_before}-0" if trim_before else ""]
        previous = known or genesis(self._store)
        for record in records:
            sequence += 1
            record.sequence = sequence
            content = record.SerializeToString(deterministic=True)
            digest = link(previous, content)
            arguments += [f"{sequence}-0", content, previous, digest]
            previous = digest
        return arguments, End(sequence, previous)

    def _look_back(self, records: list[audit_pb2.AuditRecord], found: End, instead: bytes) -> bool:
        """Goes on from the end that was found. That what this process wrote itself is gone is put on record: the chain
        ends before it, or others went on without it and another record is `instead`. Whether that is so."""
        is_lost = self._known and (found.sequence < self._end.sequence or instead not in (b"", self._end.hash))
        if is_lost:
            _log.error("audit_chain_went_back", store=self._store, known=self._end.sequence, found=found.sequence)
            lost = audit_pb2.AuditRecord(action=WENT_BACK, phase=audit_pb2.AUDIT_PHASE_EVENT, server=records[0].server)
            lost.record_time.GetCurrentTime()
            lost.actor.kind = audit_pb2.ACTOR_KIND_SERVER
            lost.details[THROUGH], lost.details[THROUGH_HASH] = str(self._end.sequence), self._end.hash.hex()
            records.insert(0, lost)
        self._end = found
        return is_lost


async def end_after(redis: Redis, store: str, last: int) -> End | None:
    """Where the chain is said to end, of the same moment at which nothing is behind `last`; None where there is."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.xrange(log_key(store), min=f"({last}-0" if last else "-", count=1)
        pipe.hmget(head_key(store), ["sequence", "hash"])
        more, (sequence, digest) = await pipe.execute()
    return None if more else End(int(sequence or 0), digest or b"")


async def oldest_first(redis: Redis, store: str, after: int = 0) -> AsyncGenerator[list[Entry], None]:
    """All entries behind `after`, in pages."""
    while True:
        raws: Any = await redis.xrange(log_key(store), min=f"({after}-0" if after else "-", count=_PAGE)
        if not raws:
            return
        page = [_entry(*raw) for raw in raws]
        yield page
        after = page[-1].sequence


async def newest_first(redis: Redis, store: str, before: int | None, count: int) -> list[Entry]:
    """At most `count` entries before the sequence `before`, or the newest."""
    raws: Any = await redis.xrevrange(log_key(store), max="+" if before is None else f"({before}-0", count=count)
    return [_entry(*raw) for raw in raws]


async def stores(redis: Redis) -> list[str]:
    """The stores that have records."""
    found: set[bytes] = await _awaited(redis.smembers(STORES))
    return sorted(one.decode("ascii") for one in found)


async def exists(redis: Redis, store: str) -> bool:
    """Whether a store has records."""
    return bool(await _awaited(redis.sismember(STORES, store)))


def _entry(raw_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    sequence = int(raw_id.partition(b"-")[0])
    return Entry(sequence, fields.get(b"r", b""), fields.get(b"p", b""), fields.get(b"h", b""))


async def _awaited(answer: Any) -> Any:
    """Commands of the client are typed as answering at once or later."""
    return await answer
