"""The Lua that writes alerts. Each script bears being run twice, which the client does when an answer is lost."""

from __future__ import annotations

from typing import Final

from alert_svc.feedback.scripts import REJECTED as REJECTED_LUA
from alert_svc.feedback.scripts import SAY
from mesh import tail

CREATED: Final = 1
EXISTS: Final = 0
ADDED_BEFORE: Final = 2
REPEAT: Final = 3
REJECTED: Final = 5

# KEYS records, index, log, due, then of each candidate its window and its `added` note, and at last the reports;
# ARGV window in ms, then of each candidate id, index member, snapshot, detect ms, due ms or "".
# Answers {code, snapshot of the alert that it belongs to} for each; of a rejected pair that of its own alert, or "".
# A record that is there already and is byte for byte what we bring (its etag is random) was written by this very call
# before its answer was lost.
# A window outlives its time by an hour, so that detections that come late, in a bunch, are compared by their own time.
RAISE: Final = (
    REJECTED_LUA
    + """
local records, index, log, due = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local window = tonumber(ARGV[1])

local function place(id, member, snapshot, detected, due_time, window_key, added_key)
  local current = redis.call('HGET', records, id)
  if current == snapshot then return {1, current} end
  if rejected(KEYS[#KEYS], id) then return {5, current or ''} end
  if current then return {0, current} end
  local holder = redis.call('GET', added_key)
  if holder then
    current = redis.call('HGET', records, holder)
    if current then return {2, current} end
    redis.call('DEL', added_key)
  end
  local newest = true
  if window > 0 then
    local held = redis.call('GET', window_key)
    if held then
      local opened, of = string.match(held, '^(%d+) (.+)$')
      if math.abs(tonumber(detected) - tonumber(opened)) <= window then
        current = redis.call('HGET', records, of)
        if current then return {3, current} end
      end
      newest = tonumber(detected) >= tonumber(opened)
    end
  end
  redis.call('HSET', records, id, snapshot)
  redis.call('ZADD', index, 0, member)
  redis.call('XADD', log, '*', 'event', '1', 'alert', snapshot)
  if due_time ~= '' then redis.call('ZADD', due, due_time, id) end
  if window > 0 and newest then
    redis.call('SET', window_key, detected .. ' ' .. id, 'PX', window + 3600000)
  end
  return {1, snapshot}
end

local answers = {}
for i = 2, #ARGV, 5 do
  local n = #answers
  answers[n + 1] = place(
    ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], KEYS[5 + 2 * n], KEYS[6 + 2 * n])
end
return answers
"""
)

# KEYS records, log, due, the two windows that it may hold, reports, their index, then the `added` notes of appearances
# that it takes in;
# ARGV id, snapshot before, snapshot after, event, "close" or "", due ms or "keep" or "remove", retention ms,
# record of the report that goes with it or "".
# Answers 1 when it is written, 2 when the report before said the same, 0 when the alert, or one of the appearances, has
# moved on meanwhile: look again.
CHANGE: Final = (
    SAY
    + """
local id = ARGV[1]
local current = redis.call('HGET', KEYS[1], id)
if current == ARGV[3] then return 1 end
if current ~= ARGV[2] then return 0 end
for i = 8, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then return 0 end
end
redis.call('HSET', KEYS[1], id, ARGV[3])
redis.call('XADD', KEYS[2], '*', 'event', ARGV[4], 'alert', ARGV[3])
for i = 8, #KEYS do
  redis.call('SET', KEYS[i], id, 'PX', ARGV[7])
end
if ARGV[5] == 'close' then
  for i = 4, 5 do
    local held = redis.call('GET', KEYS[i])
    if held and string.match(held, ' (.+)$') == id then redis.call('DEL', KEYS[i]) end
  end
end
if ARGV[6] == 'remove' then
  redis.call('ZREM', KEYS[3], id)
elseif ARGV[6] ~= 'keep' then
  redis.call('ZADD', KEYS[3], 'NX', ARGV[6], id)
end
if ARGV[8] ~= '' then return say(KEYS[6], KEYS[7], id, ARGV[8]) end
return 1
"""
)

# KEYS records, index, log, note, due; ARGV oldest log id, oldest index member. Answers how many alerts went: 256 at a
# time, because a script must not block other clients.
EXPIRE: Final = (
    tail.TRIM
    + """
trim(KEYS[3], KEYS[4], ARGV[1])
local expired = redis.call('ZRANGEBYLEX', KEYS[2], '-', '(' .. ARGV[2], 'LIMIT', 0, 256)
for _, member in ipairs(expired) do
  local id = string.sub(member, 17)
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], member)
  redis.call('ZREM', KEYS[5], id)
end
return #expired
"""
)
