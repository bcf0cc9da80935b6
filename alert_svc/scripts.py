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
RUNNER_UP: Final = 4
REJECTED: Final = 5

_OPEN: Final = """
local function open(window_key, camera, detected, id, kept)
  local before = redis.call('HGET', window_key, camera)
  if not before or tonumber(detected) >= tonumber(string.match(before, '^%d+')) then
    redis.call('HSET', window_key, camera, string.format('%.0f', detected) .. ' ' .. id)
  end
  if redis.call('PTTL', window_key) < kept then redis.call('PEXPIRE', window_key, kept) end
end
"""
"""Lua: `open(windows, camera, detect ms, id, how long windows are kept in ms)`: an alert takes in what is within its
window, unless a later one does."""

# KEYS records, index, log, due, then of each candidate the windows of its person, its `added` note, and the `added`
# notes that its runners-up would have, and at last the reports and `erased`; ARGV how long windows are kept in ms, then
# of each candidate id, index member, snapshot, detect ms, due ms or "", camera, window in ms, the camera again where a
# repeat must be on it or "", how many runners-up, the SHA-1 of its reference, and the ids of the alerts that the
# runners-up would have had in the appearance.
# Answers {code, snapshot of the alert that it belongs to} for each; of a rejected pair that of its own alert, or "".
# A record that is there already and is byte for byte what we bring (its etag is random) was written by this very call
# before its answer was lost.
# Windows are a hash of a person: camera -> detect ms and id of the alert that was raised there last. They outlive their
# time by an hour, so that detections that come late, in a bunch, are compared by their own time.
RAISE: Final = (
    REJECTED_LUA
    + _OPEN
    + """
local records, index, log, due = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local kept = tonumber(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- A match that was under way when the person was erased.
local function erased(reference)
  local until_ms = redis.call('ZSCORE', KEYS[#KEYS], reference)
  return until_ms and tonumber(until_ms) > now
end

-- What was said of the holder was not said of the appearances that it took in.
local function taken_in(added_key)
  local holder = redis.call('GET', added_key)
  if not holder then return nil end
  local current = redis.call('HGET', records, holder)
  if current and not rejected(KEYS[#KEYS - 1], holder) then return current end
  redis.call('DEL', added_key)
  return nil
end

local function held_by(id, added_key)
  return redis.call('HGET', records, id) or taken_in(added_key)
end

-- The alert, opened closest in time, that takes in what was detected then.
local function within(window_key, window, scope, detected)
  local held = scope ~= '' and {scope, redis.call('HGET', window_key, scope)} or redis.call('HGETALL', window_key)
  local closest, found
  for i = 2, #held, 2 do
    if held[i] then
      local opened, of = string.match(held[i], '^(%d+) (.+)$')
      local distance = math.abs(detected - tonumber(opened))
      if distance <= window and (not closest or distance < closest) then
        local current = redis.call('HGET', records, of)
        if current then closest, found = distance, current end
      end
    end
  end
  return found
end

local function place(id, member, snapshot, detected, due_time, camera, window, scope, window_key, added_key, rivals,
    reference)
  if erased(reference) then return {5, ''} end
  local current = redis.call('HGET', records, id)
  if current == snapshot then return {1, current} end
  if rejected(KEYS[#KEYS - 1], id) then return {5, current or ''} end
  if current then return {0, current} end
  current = taken_in(added_key)
  if current then return {2, current} end
  for _, rival in ipairs(rivals) do
    current = not rejected(KEYS[#KEYS - 1], rival[1]) and held_by(rival[1], rival[2])
    if current then return {4, current} end
  end
  if window > 0 then
    current = within(window_key, window, scope, detected)
    if current then return {3, current} end
  end
  redis.call('HSET', records, id, snapshot)
  redis.call('ZADD', index, 0, member)
  redis.call('XADD', log, '*', 'event', '1', 'alert', snapshot)
  if due_time ~= '' then redis.call('ZADD', due, due_time, id) end
  if kept > 0 then open(window_key, camera, detected, id, kept) end
  return {1, snapshot}
end

local answers, key, i = {}, 5, 2
while i <= #ARGV do
  local rivals, count = {}, tonumber(ARGV[i + 8])
  for n = 1, count do rivals[n] = {ARGV[i + 9 + n], KEYS[key + 1 + n]} end
  answers[#answers + 1] = place(
    ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4], ARGV[i + 5], tonumber(ARGV[i + 6]),
    ARGV[i + 7], KEYS[key], KEYS[key + 1], rivals, ARGV[i + 9])
  key, i = key + 2 + count, i + 10 + count
end
return answers
"""
)

# KEYS records, log, due, the windows of its person, reports, their index, then the `added` notes of appearances that it
# takes in;
# ARGV id, snapshot before, snapshot after, event, the camera whose window it leaves or "", due ms or "keep" or
# "remove", retention ms, record of the report that goes with it or "".
# Answers 1 when it is written, 2 when the report before said the same, 0 when the alert, or one of the appearances, has
# moved on meanwhile: look again.
CHANGE: Final = (
    SAY
    + _OPEN
    + """
local id = ARGV[1]
local current = redis.call('HGET', KEYS[1], id)
if current == ARGV[3] then return 1 end
if current ~= ARGV[2] then return 0 end
for i = 7, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then return 0 end
end
redis.call('HSET', KEYS[1], id, ARGV[3])
redis.call('XADD', KEYS[2], '*', 'event', ARGV[4], 'alert', ARGV[3])
for i = 7, #KEYS do
  redis.call('SET', KEYS[i], id, 'PX', ARGV[7])
end
if ARGV[5] ~= '' then
  local held = redis.call('HGET', KEYS[4], ARGV[5])
  if held and string.match(held, ' (.+)$') == id then redis.call('HDEL', KEYS[4], ARGV[5]) end
end
if ARGV[9] ~= '' then open(KEYS[4], ARGV[9], ARGV[10], id, tonumber(ARGV[11])) end
if ARGV[6] == 'remove' then
  redis.call('ZREM', KEYS[3], id)
elseif ARGV[6] ~= 'keep' then
  redis.call('ZADD', KEYS[3], 'NX', ARGV[6], id)
end
if ARGV[8] ~= '' then return say(KEYS[5], KEYS[6], id, ARGV[8]) end
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
