"""Who exported an alert, when and what for: `poi:{store}:alerts:exports:{alert}`, a hash of export id -> JSON.

It is kept as long as an alert is.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from mesh import names
from mesh.redis import Redis

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

    def __init__(self, redis: Redis, *, retention_days: float) -> None:
        self._redis = redis
        self._retention_ms = max(1, round(retention_days * _DAY_MS))

    async def add(self, alert: str, actor: str, purpose: str, time: str) -> ExportRecord:
        """Remembers an export, durably."""
        made = ExportRecord(secrets.token_hex(8), actor, purpose, time)
        key = _key(alert)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, made.export, orjson.dumps(asdict(made)))
            pipe.pexpire(key, self._retention_ms)
            await pipe.execute()
        return made

    async def of(self, alert: str) -> list[ExportRecord]:
        """All exports of an alert, oldest first."""
        kept: Any = self._redis.hgetall(_key(alert))
        found = [ExportRecord(**orjson.loads(value)) for value in (await kept).values()]
        return sorted(found, key=lambda one: (one.time, one.export))


def _key(alert: str) -> str:
    store_id, alert_id = names.parse_alert(alert)
    return f"poi:{{{store_id}}}:alerts:exports:{alert_id}"
