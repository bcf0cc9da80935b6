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


async def trim(redis: Redis, store: str, oldest_ns: int, server: str) -> int:
    """Removes the records of a store up to the first one that is as new as `oldest_ns` (ns since 1970); how many."""
    last: chain.Entry | None = None
    count = 0
    async for page in chain.oldest_first(redis, store):
        for entry in page:
            if _time_ns(entry, store) >= oldest_ns:
                break
            last, count = entry, count + 1
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
            await trim(redis, store, time.time_ns() - round(retention_days * _DAY_NS), server)
        await asyncio.sleep(every_seconds)


def _time_ns(entry: chain.Entry, store: str) -> int:
    """When it was written; never, for what is no record: it is evidence, and stays with all that comes after."""
    try:
        return entry.record(store).record_time.ToNanoseconds()
    except DecodeError:
        return 1 << 63
