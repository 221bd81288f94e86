-- Tells what was used of a limit in a period, unless somebody has told already.
-- KEYS[1] its state; ARGV: start of the period and its end in seconds, and what was used.
local start = string.format('%.0f', ARGV[1] * 1000000)
if redis.call('HGET', KEYS[1], 'start') ~= start then
  redis.call('HSET', KEYS[1], 'start', start, 'used', ARGV[3])
  redis.call('EXPIREAT', KEYS[1], ARGV[2] + 3600)
end
return 1
