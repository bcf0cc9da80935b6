"""Makes a log anew without what it says of somebody. All that stays keeps its place, so that every cursor stays good.

The new log grows beside the old one, page by page; a script then takes over what has come meanwhile, or puts the new
one in the place of the old one and adds an entry that tells all followers not to believe their memory
(`mesh.tail.REWRITTEN`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

from mesh.redis import Redis
from mesh.tail import REWRITTEN

_PAGE: Final = 256
_DRAFT_SECONDS: Final = 600
"""What is left of one that was cut off goes by itself."""

# KEYS log, new log; ARGV the last entry that was looked at, event, then an alert for each entry to add behind the one
# that is for followers. Answers entries that have come since; none: it is done.
_EXCHANGE: Final = """
local more = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 256)
if #more > 0 then return more end
local last, groups = '0-0', {}
if redis.call('EXISTS', KEYS[1]) == 1 then
  local about = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' then last = about[i + 1] end
  end
  groups = redis.call('XINFO', 'GROUPS', KEYS[1])
end
if redis.call('EXISTS', KEYS[2]) == 0 and last ~= '0-0' then
  redis.call('XADD', KEYS[2], last, 'event', '0')
  redis.call('XDEL', KEYS[2], last)
end
if last ~= '0-0' then
  redis.call('XSETID', KEYS[2], last)
  for _, group in ipairs(groups) do
    local name, at
    for i = 1, #group, 2 do
      if group[i] == 'name' then name = group[i + 1] elseif group[i] == 'last-delivered-id' then at = group[i + 1] end
    end
    redis.call('XGROUP', 'CREATE', KEYS[2], name, at)
  end
  redis.call('RENAME', KEYS[2], KEYS[1])
  redis.call('PERSIST', KEYS[1])
end
redis.call('XADD', KEYS[1], '*', 'event', '0', 'alert', '', 'rewritten', '1')
for i = 3, #ARGV do redis.call('XADD', KEYS[1], '*', 'event', ARGV[2], 'alert', ARGV[i]) end
return {}
"""

Fields = dict[bytes, bytes]


async def rewrite(
    redis: Redis,
    log: str,
    edit: Callable[[Fields], Fields | None],
    event: int,
    told: Sequence[bytes],
) -> None:
    """Lets `edit` say what becomes of each entry: the same, another one, or None for none.

    Then tells the alerts `told`, with `event`.
    """
    while not await _tried(redis, log, edit, event, told):
        pass


async def _tried(
    redis: Redis, log: str, edit: Callable[[Fields], Fields | None], event: int, told: Sequence[bytes]
) -> bool:
    """False where somebody else has exchanged the log meanwhile: what was copied may hold what they took out."""
    draft = f"{log}:draft:{secrets.token_hex(8)}"
    exchange = redis.register_script(_EXCHANGE)
    try:
        last = "0-0"
        while page := await _page(redis, log, last):
            last = await _copy(redis, draft, page, edit)
        while more := await exchange(keys=[log, draft], args=[last, event, *told]):
            entries = [(raw, _paired(fields)) for raw, fields in more]
            if any(REWRITTEN in fields for _, fields in entries):
                return False
            last = await _copy(redis, draft, entries, edit)
    finally:
        await redis.delete(draft)
    return True


async def scan(redis: Redis, log: str, see: Callable[[Fields], object]) -> None:
    """Shows every entry."""
    last = "0-0"
    while page := await _page(redis, log, last):
        for raw, fields in page:
            see(fields)
            last = raw.decode("ascii")


async def _page(redis: Redis, log: str, after: str) -> list[tuple[bytes, Fields]]:
    found: Any = await redis.xrange(log, min=f"({after}", count=_PAGE)
    return [(raw, dict(fields)) for raw, fields in found]


async def _copy(
    redis: Redis, draft: str, page: Sequence[tuple[bytes, Fields]], edit: Callable[[Fields], Fields | None]
) -> str:
    async with redis.pipeline(transaction=True) as pipe:
        for raw, fields in page:
            kept = edit(fields)
            if kept is not None and REWRITTEN not in fields:  # what was for the followers of before
                content: dict[Any, Any] = kept
                pipe.xadd(draft, content, id=raw.decode("ascii"))
        pipe.expire(draft, _DRAFT_SECONDS)
        await pipe.execute()
    return page[-1][0].decode("ascii")


def _paired(fields: Sequence[bytes]) -> Fields:
    return dict(zip(fields[::2], fields[1::2], strict=True))
