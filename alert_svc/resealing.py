"""Seals anew what of alerts lies in Redis in the clear, or with a key that was rotated out, beside the work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, cast

import structlog
from poi.v1 import alert_pb2

from alert_svc.erasing import rewriting
from alert_svc.feedback import reports
from alert_svc.kept import CONTEXT, report_context
from alert_svc.keys import STORES, key, log_key
from mesh.redis import Redis
from mesh.tail import REWRITTEN
from mesh.vault import Unopenable, Vault, VaultUnusable
from mesh.vault.resealing import Passes, SealedHash

_log = structlog.get_logger(__name__)
_LOOK_SECONDS: Final = 60.0


async def sealed_hashes(redis: Redis) -> list[SealedHash]:
    """Where alerts and reports lie: for `mesh.vault.resealing.keep_sealed`."""
    found = []
    for store in await _stores(redis):
        found.append(SealedHash(key(store), store, lambda _: CONTEXT))
        found.append(SealedHash(reports.key(store), store, report_context, head=reports.HEAD))
    return found


async def keep_logs_sealed(redis: Redis, vault: Vault, *, look: float = _LOOK_SECONDS) -> None:
    """The same for the logs: looks at each at the start, and whenever its store's key is another one."""
    passes = Passes(vault)
    while True:
        for store in await _stores(redis):
            try:
                if passes.due(store, log_key(store)):
                    await reseal_log(redis, vault, store)
                    passes.made(log_key(store))
            except VaultUnusable as error:
                _log.warning("not_resealed", key=log_key(store), why=error.message)
        await asyncio.sleep(look)


async def reseal_log(redis: Redis, vault: Vault, store: str) -> int:
    """Makes the log anew where an entry of it is not sealed with today's key; how many were not.

    Raises VaultUnusable, and what redis raises.
    """
    count = 0

    def see(fields: rewriting.Fields) -> None:
        nonlocal count
        count += _resealed(vault, store, fields) is not None

    await rewriting.scan(redis, log_key(store), see)
    if count:
        await rewriting.rewrite(
            redis,
            log_key(store),
            lambda fields: _resealed(vault, store, fields) or fields,
            int(alert_pb2.ALERT_EVENT_UNSPECIFIED),
            (),
        )
        _log.info("resealed", key=log_key(store), values=count)
    return count


def _resealed(vault: Vault, store: str, fields: rewriting.Fields) -> rewriting.Fields | None:
    kept = fields.get(b"alert", b"")
    if not kept or REWRITTEN in fields or vault.is_current(store, kept):
        return None
    try:
        return {**fields, b"alert": vault.seal(store, vault.open(store, kept, CONTEXT), CONTEXT)}
    except Unopenable:
        return None  # followers say so


async def _stores(redis: Redis) -> list[str]:
    found: Any = await cast("Awaitable[Any]", redis.smembers(STORES))
    return sorted(raw.decode("ascii") for raw in found)
