-- Begins the counter of a limit for a period with the use so far, unless it has begun.
-- KEYS[1] its state; ARGV: start of the period and its end in seconds, and the use. Units that
-- workers used while they were cut off are added to it.
--
-- From 'begun' on the counter includes all takes: units taken before are not returned to it
-- (limits_adjust.lua). It is a tenth of a second ago: workers time their takes by their own clocks.
--
-- A late report for a past period changes nothing: the counter of the present period stays.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local start = string.format('%.0f', ARGV[1] * 1000000)
local known = redis.call('HMGET', KEYS[1], 'start', 'early_start', 'early')
if known[1] ~= start and now < ARGV[2] * 1000000 then
  local early = known[2] == start and tonumber(known[3]) or 0
  local begun = string.format('%.0f', now - 100000)
  local used = string.format('%.0f', math.max(0, math.min(1e15, ARGV[3] + early)))  -- as adjusted
  redis.call('HSET', KEYS[1], 'start', start, 'used', used, 'begun', begun)
  redis.call('HDEL', KEYS[1], 'early_start', 'early', 'told')
  redis.call('EXPIREAT', KEYS[1], ARGV[2] + 3600)
end
return 1
