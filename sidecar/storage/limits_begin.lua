-- Tells what was used of a limit in a period, unless somebody has told already.
-- KEYS[1] its state; ARGV: start of the period and its end in seconds, what was used, and when the
-- request came that found nothing known, in microseconds, or nothing. To what was used is added what
-- workers used that could ask nobody.
--
-- 'begun' is since when all that is taken is in the count: of what was taken before, nothing is given
-- back (limits_adjust.lua). It is when that request came, by its worker's clock, so that this one
-- can be given back: but a second ago at most, since of a count that was lost others may have taken
-- something meanwhile.
--
-- Who tells late, of a period that is over, tells nothing: the count of the present one stays.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local start = string.format('%.0f', ARGV[1] * 1000000)
local known = redis.call('HMGET', KEYS[1], 'start', 'early_start', 'early')
if known[1] ~= start and now < ARGV[2] * 1000000 then
  local early = known[2] == start and tonumber(known[3]) or 0
  local came = tonumber(ARGV[4]) or now
  local begun = string.format('%.0f', math.max(now - 1000000, math.min(now, came)))
  redis.call('HSET', KEYS[1], 'start', start, 'used', math.max(0, ARGV[3] + early), 'begun', begun)
  redis.call('HDEL', KEYS[1], 'early_start', 'early', 'told')
  redis.call('EXPIREAT', KEYS[1], ARGV[2] + 3600)
end
return 1
