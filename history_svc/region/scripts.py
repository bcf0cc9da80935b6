"""The steps that Redis takes as one, in Lua. They run on Redis 6.2 and later.

All of a step is durable or none of it, also in the append-only file, and a step that a broken connection made run twice
changes nothing the second time.
"""

from __future__ import annotations

from mesh.tail import TRIM

COMMIT = """
-- Takes a scene from one version to the next. Returns 0 when another process was faster.
-- KEYS: scene, ends, visits, index, lasting, closed, events, scenes.
-- ARGV: version, next version, the scene's id, its time, lagging sights, silence in ms (or ''), changes as JSON,
--   time of its newest update.
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then
  return 0
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if ARGV[6] ~= '' then
  local last = tonumber(redis.call('ZSCORE', KEYS[8], ARGV[3]) or 'inf')
  if last > now - tonumber(ARGV[6]) then
    return 0 -- no longer silent
  end
end
redis.call('ZADD', KEYS[8], ARGV[6] == '' and now or '+inf', ARGV[3])
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'time', ARGV[4], 'lagging', ARGV[5], 'latest', ARGV[8])
local changes = cjson.decode(ARGV[7])
for _, visit in ipairs(changes.visits) do
  local id, enter, record = visit[1], visit[2], visit[3]
  redis.call('HSET', KEYS[3], id, record)
  redis.call('HSET', KEYS[1], 'v:' .. id, record)
  redis.call('ZADD', KEYS[4], enter, id)
  if visit[4] then
    redis.call('ZADD', KEYS[5], enter, id)
  else
    redis.call('ZREM', KEYS[5], id)
  end
  if visit[5] then
    redis.call('ZADD', KEYS[6], now, id)
  else
    redis.call('ZREM', KEYS[6], id)
  end
end
for _, id in ipairs(changes.untracked) do
  redis.call('HDEL', KEYS[1], 'v:' .. id)
end
for _, zone in ipairs(changes.zones) do
  redis.call('HSET', KEYS[1], 'z:' .. zone, '')
end
for _, key in ipairs(changes.forgotten_ends) do
  redis.call('HDEL', KEYS[2], key)
end
for _, pair in ipairs(changes.ends) do
  redis.call('HSET', KEYS[2], pair[1], pair[2])
end
for _, event in ipairs(changes.events) do
  redis.call('XADD', KEYS[7], '*', 'event', event[1], 'id', event[2], 'visit', event[3])
end
return 1
"""

SILENT = """
-- The scenes without an update for ARGV[1] ms. KEYS: scenes.
local clock = redis.call('TIME')
local oldest = clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(ARGV[1])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', oldest)
"""

FORGET = (
    TRIM
    + """
-- Drops visits that closed more than ARGV[1] ms ago, at most 500 at once so that nobody waits for long, and events of
-- that age, or beyond the newest ARGV[2]. Returns how many visits. KEYS: closed, visits, index, lasting, events, the
-- events' note.
local clock = redis.call('TIME')
local oldest = clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(ARGV[1])
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%d', oldest), 'LIMIT', 0, 500)
if #ids > 0 then
  redis.call('ZREM', KEYS[1], unpack(ids))
  redis.call('HDEL', KEYS[2], unpack(ids))
  redis.call('ZREM', KEYS[3], unpack(ids))
  redis.call('ZREM', KEYS[4], unpack(ids))
end
trim(KEYS[5], KEYS[6], string.format('%d-0', math.max(oldest, 0)))
local excess = math.min(redis.call('XLEN', KEYS[5]) - tonumber(ARGV[2]), 5000)
if excess > 0 then
  local entries = redis.call('XRANGE', KEYS[5], '-', '+', 'COUNT', excess + 1)
  trim(KEYS[5], KEYS[6], entries[#entries][1])
end
return #ids
"""
)

ERASE = """
-- Removes a visit; whoever has its scene in memory loads it again. KEYS: visits, index, lasting, closed, scene, ends.
-- ARGV: visit, its person and zone as in the ends.
redis.call('HDEL', KEYS[1], ARGV[1])
for i = 2, 4 do
  redis.call('ZREM', KEYS[i], ARGV[1])
end
if redis.call('EXISTS', KEYS[5]) == 1 then
  redis.call('HDEL', KEYS[5], 'v:' .. ARGV[1])
  redis.call('HSET', KEYS[5], 'version', 'erased ' .. ARGV[1])
end
redis.call('HDEL', KEYS[6], ARGV[2])
return 1
"""
