"""The Lua that writes reports. Each script bears being run twice, which the client does when an answer is lost."""

from __future__ import annotations

from typing import Final

SAY: Final = """
local function say(reports, index, id, record)
  local old = redis.call('HGET', reports, id)
  if old then redis.call('ZREM', index, string.sub(old, 1, 16) .. id) end
  redis.call('HSET', reports, id, record)
  redis.call('ZADD', index, 0, string.sub(record, 1, 16) .. id)
  if old and string.sub(old, 17, 17) == string.sub(record, 17, 17) then return 2 end
  return 1
end
"""
"""Lua: `say(reports, index, id, record)` puts a report in the place of the pair's earlier one; 1 where that said
something else or there was none, 2 where the verdict is the same."""

REJECTED: Final = """
local function rejected(reports, id)
  local record = redis.call('HGET', reports, id)
  return record and string.sub(record, 17, 17) == '2'
end
"""
"""Lua: `rejected(reports, id)` tells whether the pair was last said to be NOT_THIS_PERSON."""

# KEYS alerts, reports, index; ARGV id, the alert's record or "", the report's record before or "", the new one.
# Answers as `say`, 0 when the alert or the report has moved on meanwhile: look again.
REPORT: Final = (
    SAY
    + """
local id, current = ARGV[1], redis.call('HGET', KEYS[2], ARGV[1]) or ''
if current == ARGV[4] then return 2 end
if current ~= ARGV[3] or (redis.call('HGET', KEYS[1], id) or '') ~= ARGV[2] then return 0 end
return say(KEYS[2], KEYS[3], id, ARGV[4])
"""
)

# KEYS reports, index; ARGV oldest index member. Answers how many reports went: 256 at a time, because a script must not
# block other clients.
EXPIRE: Final = """
local expired = redis.call('ZRANGEBYLEX', KEYS[2], '-', '(' .. ARGV[1], 'LIMIT', 0, 256)
for _, member in ipairs(expired) do
  redis.call('HDEL', KEYS[1], string.sub(member, 17))
  redis.call('ZREM', KEYS[2], member)
end
return #expired
"""
