"""References of erased persons: for a while nothing that matched one of them is taken.

`poi:{store}:alerts:erased`: sorted set of SHA-1 of a reference's name, by when that ends (epoch ms). By reference and
not by person, so that somebody who is enrolled again under the same id alerts at once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Sequence
from typing import Any, Final

from poi.v1 import alert_pb2

from alert_svc.keys import erased_key
from mesh.redis import Redis

_KEPT_MS: Final = 3_600_000
"""A match is asked for anew when it could not be raised for some seconds: this is far longer."""


def member(reference: str) -> str:
    """How a reference is called there; "" for none."""
    return hashlib.sha1(reference.encode(), usedforsecurity=False).hexdigest() if reference else ""


async def bury(redis: Redis, store_id: str, references: Collection[str]) -> None:
    """From now on nothing that matched one of these is taken."""
    now = time.time_ns() // 1_000_000
    key = erased_key(store_id)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zremrangebyscore(key, "-inf", now)
        if references:
            pipe.zadd(key, {member(one): now + _KEPT_MS for one in references})
            pipe.pexpire(key, _KEPT_MS)
        await pipe.execute()


async def leave_out_runners_up(redis: Redis, store_id: str, alerts: Sequence[alert_pb2.Alert]) -> None:
    """Takes persons who were erased out of the runners-up of candidates, in place."""
    if not any(alert.runners_up for alert in alerts):
        return
    now = time.time_ns() // 1_000_000
    found: Any = await redis.zrangebyscore(erased_key(store_id), now, "+inf")
    gone = {each.decode("ascii") for each in found}
    for alert in alerts if gone else ():
        kept = [each for each in alert.runners_up if member(each.reference) not in gone]
        del alert.runners_up[:]
        alert.runners_up.extend(kept)
