"""Who exported an alert, when and what for: `poi:{store}:alerts:exports:{alert}`, a hash of export id -> JSON.

It is kept as long as an alert is, sealed where there is a vault.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from mesh import names
from mesh.redis import Redis
from mesh.vault import PLAIN, Box

_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """One export of an alert."""

    export: str
    """Its id."""
    actor: str
    purpose: str
    time: str
    """ISO 8601, UTC."""


class ExportRecords:
    """The exports of all alerts in one Redis."""

    def __init__(self, redis: Redis, *, retention_days: float, box: Box = PLAIN) -> None:
        self._redis, self._box = redis, box
        self._retention_ms = max(1, round(retention_days * _DAY_MS))

    async def add(self, alert: str, actor: str, purpose: str, time: str) -> ExportRecord:
        """Remembers an export, durably."""
        made = ExportRecord(secrets.token_hex(8), actor, purpose, time)
        key = _key(alert)
        store_id, alert_id = names.parse_alert(alert)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, made.export, self._box.seal(store_id, orjson.dumps(asdict(made)), _context(alert_id)))
            pipe.pexpire(key, self._retention_ms)
            await pipe.execute()
        return made

    async def forget(self, alert: str) -> None:
        """Removes what is known of the exports of an alert."""
        await self._redis.delete(_key(alert))

    async def of(self, alert: str) -> list[ExportRecord]:
        """All exports of an alert, oldest first."""
        kept: Any = self._redis.hgetall(_key(alert))
        store_id, alert_id = names.parse_alert(alert)
        opened = [self._box.open(store_id, value, _context(alert_id)) for value in (await kept).values()]
        found = [ExportRecord(**orjson.loads(value)) for value in opened]
        return sorted(found, key=lambda one: (one.time, one.export))


def _context(alert_id: str) -> bytes:
    return b"export/" + alert_id.encode()


def _key(alert: str) -> str:
    store_id, alert_id = names.parse_alert(alert)
    return f"poi:{{{store_id}}}:alerts:exports:{alert_id}"
