"""Removes records that are older than the law wants them kept. What is left proves that nothing else went."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from mesh.audit import chain
from mesh.audit.recorder import event
from mesh.redis import Redis

_log = structlog.get_logger(__name__)
_DAY_NS: Final = 86_400 * 10**9
_NEVER_NS: Final = 1 << 63


async def trim(redis: Redis, store: str, oldest_ns: int, server: str) -> int:
    """Removes the records of a store up to the first one that is as new as `oldest_ns` (ns since 1970); how many.

    One that is not written yet, as its server's clock was ahead, keeps no others: it goes with older ones behind it.
    """
    last: chain.Entry | None = None
    count = seen = 0
    soon_ns = time.time_ns() + _DAY_NS
    async for page in chain.oldest_first(redis, store):
        for entry in page:
            written_ns, seen = _time_ns(entry, store), seen + 1
            if soon_ns < written_ns < _NEVER_NS:
                continue
            if written_ns >= oldest_ns:
                break
            last, count = entry, seen
        else:
            continue
        break
    if last is None:
        return 0
    record = event(chain.TRIMMED, "OK", records=str(count))
    record.details[chain.THROUGH], record.details[chain.THROUGH_HASH] = str(last.sequence), last.hash.hex()
    record.server = server
    record.record_time.GetCurrentTime()
    await chain.Chain(redis, store).append([record], trim_before=last.sequence + 1)
    _log.info("audit_trimmed", store=store, records=count, through=last.sequence)
    return count


async def trim_forever(redis: Redis, retention_days: float, every_seconds: float, server: str) -> None:
    """Trims all stores now and then."""
    while True:
        for store in await chain.stores(redis):
            seconds, _ = await redis.time()
            # By whichever clock is behind: one that is ahead by mistake must not remove everything.
            oldest_ns = min(time.time_ns(), seconds * 10**9) - round(retention_days * _DAY_NS)
            await trim(redis, store, oldest_ns, server)
        await asyncio.sleep(every_seconds)


def _time_ns(entry: chain.Entry, store: str) -> int:
    """When it was written; never, for what is no record: it is evidence, and stays with all that comes after."""
    try:
        return entry.record(store).record_time.ToNanoseconds()
    except DecodeError:
        return _NEVER_NS
