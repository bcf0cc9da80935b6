"""Seals what lies in Redis anew: what was stored before there was a vault, or with a key that was rotated out.

Services do so beside their work, at their start and after a rotation. What is written meanwhile stays as it was
written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog
from prometheus_client import Counter

from mesh.redis import Redis
from mesh.vault.masters import VaultUnusable
from mesh.vault.vault import Unopenable, Vault

_log = structlog.get_logger(__name__)
_RESEALED: Final = Counter("poi_vault_resealed_total", "Stored values that were sealed anew.")
_UNOPENABLE: Final = Counter("poi_vault_unopenable_total", "Stored values that could not be sealed anew.")
_CHUNK: Final = 64
_LOOK_SECONDS: Final = 60.0
"""How often it is seen whether a key was rotated: the old one goes on opening what it sealed."""
_PASSES: Final = 2
_REPLACE: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""


@dataclass(frozen=True, slots=True)
class SealedHash:
    """A hash in Redis whose values are sealed."""

    key: str
    store: str
    context: Callable[[str], bytes]
    """Of the value in a field."""
    revisioned: bool = False
    """Values begin with digits and a colon, which are not sealed."""
    head: int = 0
    """So many bytes at the beginning of a value are not sealed."""


async def reseal(redis: Redis, vault: Vault, what: SealedHash) -> int:
    """Seal every value with the key of today; how many were not. Raises VaultUnusable, and what redis raises."""
    replace = redis.register_script(_REPLACE)
    count = 0
    async for field, value in _values(redis, what.key):
        head, content = value[: what.head], value[what.head :]
        if what.revisioned:
            revision, colon, content = value.partition(b":")
            head = revision + colon
        if vault.is_current(what.store, content):
            continue
        context = what.context(field.decode())
        try:
            fresh = head + vault.seal(what.store, vault.open(what.store, content, context), context)
        except Unopenable as error:
            _UNOPENABLE.inc()
            _log.error("not_resealed", key=what.key, field=field.decode(), why=error.message)
            continue
        if await replace(keys=[what.key], args=[field, value, fresh]):
            _RESEALED.inc()
            count += 1
    return count


async def keep_sealed(
    redis: Redis, vault: Vault, hashes: Callable[[], Awaitable[Iterable[SealedHash]]], *, look: float = _LOOK_SECONDS
) -> None:
    """Reseal what `hashes` names, now and whenever a store's key is another one (looked at every `look` seconds)."""
    passes = Passes(vault)
    while True:
        for each in await hashes():
            try:
                if not passes.due(each.store, each.key):
                    continue
                if count := await reseal(redis, vault, each):
                    _log.info("resealed", key=each.key, values=count, data_key=vault.current(each.store))
            except VaultUnusable as error:
                _log.warning("not_resealed", key=each.key, why=str(error))
                continue
            passes.made(each.key)
        await asyncio.sleep(look)


class Passes:
    """Which keys are to be gone through: each at first and after a rotation, and once more some time later. Another
    server, which did not know the key yet or has no vault and is being exchanged, may write behind the first pass."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._made: dict[str, tuple[int, int]] = {}
        """By key: for which data key, and how often."""

    def due(self, store: str, key: str) -> bool:
        """Whether it is. Raises VaultUnusable."""
        current = self._vault.current(store)
        data_key, count = self._made.get(key, (current, 0))
        self._made[key] = current, count if data_key == current else 0
        return self._made[key][1] < _PASSES

    def made(self, key: str) -> None:
        """It was gone through."""
        data_key, count = self._made[key]
        self._made[key] = data_key, count + 1


async def _values(redis: Redis, key: str) -> AsyncIterator[tuple[bytes, bytes]]:
    cursor = 0
    while True:
        cursor, part = await cast("Awaitable[Any]", redis.hscan(key, cursor, count=_CHUNK))
        for field, value in part.items():
            yield field, value
        if not cursor:
            return
