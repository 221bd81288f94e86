-- Tells what was used of a limit in a period, unless somebody has told already.
-- KEYS[1] its state; ARGV: start of the period and its end in seconds, and what was used. To that is
-- added what workers used that could ask nobody.
--
-- 'begun' is since when all that is taken is in the count: of what was taken before, nothing is given
-- back (limits_adjust.lua). It is a tenth of a second ago: workers tell by their own clocks when they
-- took something.
--
-- Who tells late, of a period that is over, tells nothing: the count of the present one stays.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local start = string.format('%.0f', ARGV[1] * 1000000)
local known = redis.call('HMGET', KEYS[1], 'start', 'early_start', 'early')
if known[1] ~= start and now < ARGV[2] * 1000000 then
  local early = known[2] == start and tonumber(known[3]) or 0
  local begun = string.format('%.0f', now - 100000)
  redis.call('HSET', KEYS[1], 'start', start, 'used', math.max(0, ARGV[3] + early), 'begun', begun)
  redis.call('HDEL', KEYS[1], 'early_start', 'early', 'told')
  redis.call('EXPIREAT', KEYS[1], ARGV[2] + 3600)
end
return 1
