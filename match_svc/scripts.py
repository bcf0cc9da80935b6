"""The Lua that changes the registry: each change moves as a whole or not at all."""

from __future__ import annotations

from typing import Final

# KEYS records, order, log, revision, revisions, request, watchlists, members, images, reembed.
# ARGV store, POI, revision that it must have, record ("" removes), fingerprint, seconds to remember the request, length
# of the log, lists that it is put on, lists that it is taken off, number of pictures dropped, their fields, then field
# and picture of new ones.
# Repeating it (as the connection does when an answer got lost) gives the answer of the first time.
WRITE: Final = """
local before = redis.call('GET', KEYS[6])
if before then return {'repeated', before} end
local record = redis.call('HGET', KEYS[1], ARGV[2])
local revision = record and string.match(record, '^%d+') or ''
if revision ~= ARGV[3] then return {'conflict', revision} end
for list in string.gmatch(ARGV[8], '%S+') do
  if redis.call('HEXISTS', KEYS[7], list) == 0 then return {'unlisted', list} end
end
for list in string.gmatch(ARGV[8], '%S+') do redis.call('HINCRBY', KEYS[8], list, 1) end
for list in string.gmatch(ARGV[9], '%S+') do redis.call('HINCRBY', KEYS[8], list, -1) end
revision = redis.call('INCR', KEYS[4])
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[1], ARGV[2])
  redis.call('ZREM', KEYS[2], ARGV[2])
else
  redis.call('HSET', KEYS[1], ARGV[2], revision .. ':' .. ARGV[4])
  redis.call('ZADD', KEYS[2], 'NX', revision, ARGV[2])
end
redis.call('HDEL', KEYS[10], ARGV[2])
local dropped = tonumber(ARGV[10])
for at = 11, 10 + dropped do redis.call('HDEL', KEYS[9], ARGV[at]) end
for at = 11 + dropped, #ARGV, 2 do redis.call('HSET', KEYS[9], ARGV[at], ARGV[at + 1]) end
redis.call('HSET', KEYS[5], ARGV[1], revision)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[7], '*', 'r', revision, 's', ARGV[1], 'p', ARGV[2])
redis.call('SET', KEYS[6], revision .. ' ' .. ARGV[2] .. ' ' .. ARGV[5], 'EX', ARGV[6])
return {'done', tostring(revision)}
"""

CONFIGURE: Final = """
if (redis.call('HGET', KEYS[4], ARGV[1]) or '') ~= ARGV[4] then return -1 end
local revision = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[3], ARGV[1], revision)
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'r', revision, 's', ARGV[1], 'p', '')
return revision
"""
