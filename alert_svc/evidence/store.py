"""How far the maker of pictures has got in the alert log, and which alerts wait for theirs.

Of a store: `poi:{store}:evidence` (hash: `cursor`), `poi:{store}:evidence/owner` (the lease of whoever makes pictures),
`poi:{store}:evidence/due` (sorted set: ids of alerts, by when to look after them next, epoch ms) and
`poi:{store}:evidence/tries` (hash: id -> how often its picture was begun). Redis 6.2 or later.
"""

from __future__ import annotations

import time
from typing import Any, Final

from poi.v1 import alert_pb2

from alert_svc.delivery.store import LeaseLost
from alert_svc.kept import Kept
from alert_svc.keys import log_key
from mesh import names
from mesh.redis import BLOCK_MS, Redis

_PAGE: Final = 256

# KEYS progress, owner, due; ARGV token, cursor, then id and time of each alert that was raised up to there.
_TAKE: Final = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return -1 end
for i = 3, #ARGV, 2 do redis.call('ZADD', KEYS[3], 'NX', ARGV[i + 1], ARGV[i]) end
redis.call('HSET', KEYS[1], 'cursor', ARGV[2])
return 0
"""


class WaitingAlerts:
    """The alerts of a store that wait for a picture."""

    def __init__(self, redis: Redis, store_id: str, kept: Kept) -> None:
        self.redis, self._kept = redis, kept
        self._store_id = store_id
        self._progress = f"poi:{{{store_id}}}:evidence"
        self.owner, self._due, self._tries = (f"{self._progress}/{part}" for part in ("owner", "due", "tries"))
        self._take = redis.register_script(_TAKE)

    async def cursor(self) -> str:
        """The place in the log up to which all alerts were taken; before the log's beginning at first."""
        kept: bytes | None = await _awaited(self.redis.hget(self._progress, "cursor"))
        return (kept or b"0-0").decode("ascii")

    async def take(self, token: str, cursor: str, delay: float) -> str:
        """Takes over the alerts that were raised after the cursor, to be looked after in `delay` seconds.

        Waits a while where there are none. Returns the new cursor. Entries that were trimmed meanwhile are nobody's
        any more, and passed over. Raises LeaseLost.
        """
        answer: Any = await self.redis.xread({log_key(self._store_id): cursor}, count=_PAGE, block=BLOCK_MS)
        entries = [(raw_id.decode("ascii"), fields) for _, raws in answer for raw_id, fields in raws]
        if not entries:
            return cursor
        when = round((time.time() + delay) * 1000)
        last: str = entries[-1][0]
        arguments: list[str | int] = [token, last]
        for entry_id, fields in entries:
            entry = self._kept.change(self._store_id, entry_id, fields)
            if entry is not None and entry.event == alert_pb2.ALERT_EVENT_RAISED:
                arguments += [names.parse_alert(alert_pb2.Alert.FromString(entry.snapshot).name)[1], when]
        if await self._take(keys=[self._progress, self.owner, self._due], args=arguments) == -1:
            raise LeaseLost(self.owner)
        return last

    async def next(self, count: int) -> list[tuple[str, float]]:
        """At most `count` alerts as (id, seconds until it is due, negative when it is), the most due first."""
        found: Any = await self.redis.zrange(self._due, 0, count - 1, withscores=True)
        now_ms = time.time() * 1000
        return [(member.decode("ascii"), (score - now_ms) / 1000) for member, score in found]

    async def wait(self, alert_id: str, delay: float) -> None:
        """Look after it again in `delay` seconds. Whoever says so did not die of it."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.zadd(self._due, {alert_id: round((time.time() + delay) * 1000)}, xx=True)
            pipe.hdel(self._tries, alert_id)
            await pipe.execute()

    async def begin(self, alert_id: str) -> int:
        """Notes that its picture is begun; how often that was. Whoever dies of it leaves that note."""
        return int(await _awaited(self.redis.hincrby(self._tries, alert_id, 1)))

    async def done(self, alert_id: str) -> None:
        """Nothing more is to be done about it."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.zrem(self._due, alert_id)
            pipe.hdel(self._tries, alert_id)
            await pipe.execute()


async def _awaited(answer: Any) -> Any:
    """Commands of the client are typed as answering at once or later."""
    return await answer
