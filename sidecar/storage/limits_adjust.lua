-- Puts right what was taken: more or less was used, or a slot is free again.
--
-- KEYS and hash tag as in limits.lua. ARGV: four values a limit: kind, amount, change, detail.
--   detail  's': window in microseconds; 'c': start of the period it was taken in; 'n': member
-- A change to a period that is over is left out: what was used then is in the usage records.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

for i, key in ipairs(KEYS) do
  local at = (i - 1) * 4
  local kind, detail = ARGV[at + 1], ARGV[at + 4]
  local amount, change = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  if kind == 's' and amount > 0 then
    local interval = tonumber(detail) / amount
    local tat = math.max(tonumber(redis.call('GET', key) or 0), now) + change * interval
    if tat <= now then
      redis.call('DEL', key)
    else
      redis.call('SET', key, string.format('%.0f', tat), 'PX',
                 math.max(1, math.ceil((tat - now) / 1000)))
    end
  elseif kind == 'c' then
    if redis.call('HGET', key, 'start') == string.format('%.0f', detail * 1000000) then
      if redis.call('HINCRBY', key, 'used', change) < 0 then
        redis.call('HSET', key, 'used', 0)
      end
    end
  elseif kind == 'n' then
    redis.call('ZREM', key, detail)
  end
end
return 1
