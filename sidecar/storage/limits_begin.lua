-- Tells what was used of a limit in a period, unless somebody has told already.
-- KEYS[1] its state; ARGV: start of the period and its end in seconds, and what was used. To that is
-- added what workers used that could ask nobody.
--
-- Who tells late, of a period that is over, tells nothing: the count of the present one stays.
local now = redis.call('TIME')[1]
local start = string.format('%.0f', ARGV[1] * 1000000)
local known = redis.call('HMGET', KEYS[1], 'start', 'early_start', 'early')
if known[1] ~= start and tonumber(now) < tonumber(ARGV[2]) then
  local early = known[2] == start and tonumber(known[3]) or 0
  redis.call('HSET', KEYS[1], 'start', start, 'used', math.max(0, ARGV[3] + early))
  redis.call('HDEL', KEYS[1], 'early_start', 'early', 'told')
  redis.call('EXPIREAT', KEYS[1], ARGV[2] + 3600)
end
return 1
