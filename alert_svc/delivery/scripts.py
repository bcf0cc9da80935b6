"""The Lua scripts of `store`: what must happen as one, or not at all. KEYS and ARGV are said at each."""

from typing import Final

CREATE: Final = """
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 1 then
  redis.call('HSET', KEYS[2], 'cursor', ARGV[3])
  return 1
end
return redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] and 1 or 0
"""
"""KEYS: targets, progress. ARGV: id, Target, cursor. A Target that is there already, byte for byte, is ours: see etag.
"""

CHANGE: Final = """
local current = redis.call('HGET', KEYS[1], ARGV[1])
if current == ARGV[3] then return 1 end
if current ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], 'cursor', ARGV[4]) end
return 1
"""
"""KEYS: targets, progress. ARGV: id, Target before, Target after, cursor or ''."""

DELETE: Final = """
local current = redis.call('HGET', KEYS[1], ARGV[1])
if current and current ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
"""
"""KEYS: targets and all of the target. ARGV: id, Target."""

RENEW: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
"""KEYS: owner. ARGV: token, milliseconds."""

RELEASE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
"""KEYS: owner. ARGV: token."""

SETTLE: Final = """
local progress, owner, records, recent, dead, replay = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
if redis.call('GET', owner) ~= ARGV[1] then return -1 end
if ARGV[2] ~= '' then redis.call('HSET', progress, 'cursor', ARGV[2]) end
if not ARGV[3] then return 0 end
local member, state = ARGV[3], ARGV[5]
redis.call('HSET', records, member, ARGV[4])
redis.call('HSET', progress, 'failures', ARGV[6], 'error', ARGV[7])
if state == '3' then
  redis.call('ZREM', recent, member)
  redis.call('ZREM', replay, member)
  redis.call('ZADD', dead, 0, member)
else
  redis.call('ZREM', dead, member)
  redis.call('ZADD', recent, 0, member)
  if state == '2' then
    redis.call('ZREM', replay, member)
    redis.call('HSET', progress, 'success', ARGV[8])
  end
end
local extra = redis.call('ZCARD', recent) - tonumber(ARGV[9])
if extra > 0 then
  for _, old in ipairs(redis.call('ZRANGE', recent, 0, math.min(extra, 64) - 1)) do
    if old ~= member and not redis.call('ZSCORE', replay, old) then
      redis.call('ZREM', recent, old)
      redis.call('HDEL', records, old)
    end
  end
end
for _, old in ipairs(redis.call('ZRANGEBYLEX', dead, '-', '(' .. ARGV[10], 'LIMIT', 0, 64)) do
  redis.call('ZREM', dead, old)
  redis.call('HDEL', records, old)
end
return 0
"""
"""KEYS: progress, owner, records, recent, dead, replay. ARGV: token, cursor or '', and to write a delivery: its id,
Delivery, state, failures, error, now in ms, how many recent ones to keep, the id before which dead letters expire."""

REPLAY: Final = """
local records, recent, dead, replay = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local count = 0
for i = 1, #ARGV, 3 do
  local member = ARGV[i]
  if redis.call('ZSCORE', dead, member) and redis.call('HGET', records, member) == ARGV[i + 1] then
    redis.call('HSET', records, member, ARGV[i + 2])
    redis.call('ZREM', dead, member)
    redis.call('ZADD', recent, 0, member)
    redis.call('ZADD', replay, 0, member)
    count = count + 1
  elseif redis.call('ZSCORE', replay, member) and redis.call('HGET', records, member) == ARGV[i + 2] then
    count = count + 1
  end
end
return count
"""
"""KEYS: records, recent, dead, replay. ARGV: for each its id, Delivery before, Delivery after. Answers how many."""
