-- Returns the status of limits and changes nothing.
--
-- KEYS and hash tag as in limits.lua. ARGV: three values a limit: kind, amount, detail, as there.
-- Answer    {now, then four numbers a limit: known, remaining, reset, used}
--   now     the server's time in microseconds
--   known   0: limit i has no counter in this period
--   reset   microseconds until all is free again, or until the period ends.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local answer = {now}
local LONGEST = 1e15  -- as in limits.lua

for i, key in ipairs(KEYS) do
  local at = (i - 1) * 3
  local kind, amount, detail = ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  local known, remaining, reset, used = 1, 0, 0, 0

  if kind == 's' then
    local window, at_once = string.match(detail, '^(%d+)/(%d+)$')
    window, at_once = tonumber(window), tonumber(at_once)
    local interval = amount > 0 and window / amount or window
    local pattern = '^(%d+)/(%d+)/%d+/(%d+)$'
    local tat, reckoned_by, till = string.match(redis.call('GET', key) or '', pattern)
    local at = math.max(now, tonumber(till or 0))  -- now, or then if the clock was set back since
    reset = math.max(0, tonumber(tat or 0) - at)
    if reset > 0 and amount > 0 then
      reset = reset * reckoned_by / amount  -- as many units are used as were
    end
    reset = math.min(LONGEST, reset)
    used = math.min(at_once, math.max(0, math.ceil(reset / interval - 1e-6)))
    remaining = amount > 0 and at_once - used or 0

  elseif kind == 'c' then
    local start, stop
    local last
    for border in string.gmatch(string.match(detail, '^[^/]*'), '%d+') do
      border = tonumber(border) * 1000000
      if last and last <= now and now < border then
        start, stop = last, border
      end
      last = border
    end
    local state = redis.call('HMGET', key, 'start', 'used')
    if start and tonumber(state[1] or -1) == start then
      used = tonumber(state[2])
      remaining = math.max(0, amount - used)
      reset = stop - now
    else
      known = 0
    end

  else
    used = redis.call('ZCOUNT', key, '(' .. string.format('%.0f', now), '+inf')
    remaining = math.max(0, amount - used)
  end

  for _, number in ipairs({known, remaining, reset, used}) do
    answer[#answer + 1] = number
  end
end
return answer
