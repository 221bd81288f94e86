-- Takes what a request needs of all its limits, or nothing of any.
--
-- KEYS[i]   state of limit i; all share one hash tag, so that a cluster keeps them together.
-- ARGV      six values a limit, in order: kind, amount, cost, want, reserve, detail.
--   kind    's' sliding (GCRA), 'c' calendar, 'n' slots.
--   want    how much more to take ahead, if plenty is left; the answer says how much it was.
--   detail  's': window in microseconds / how much at once
--           'c': borders of periods in seconds, separated by commas
--           'n': member / seconds until the slot is free in any case
-- Answer    {taken, i, then four numbers a limit: ahead, remaining, reset, used}
--   taken   1: all taken. 0: limit i has no room; its reset is when to try again.
--           2: nothing is known of limit i in this period; it must be told what was used.
--   reset   microseconds until all is free again, or until the period ends.
--
-- Time is the server's own: workers' clocks may differ.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local SHARE = 16  -- at most a sixteenth of what is left is taken ahead: near the limit, nothing.

local function ahead_of(want, left)
  return math.max(0, math.min(want, math.floor(left / SHARE)))
end

local answer = {1, 0}
local writes = {}

for i, key in ipairs(KEYS) do
  local at = (i - 1) * 6
  local kind, detail = ARGV[at + 1], ARGV[at + 6]
  local amount, cost = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local want, reserve = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local ahead, remaining, reset, used = 0, 0, 0, 0
  local refused = false

  if kind == 's' then
    local window, at_once = string.match(detail, '^(%d+)/(%d+)$')
    window, at_once = tonumber(window), tonumber(at_once)
    local interval = amount > 0 and window / amount or window
    local tolerance = at_once * interval
    local tat = math.max(tonumber(redis.call('GET', key) or 0), now)
    local left = (now + tolerance - tat) / interval
    if amount == 0 or left + 1e-6 < cost + reserve then
      refused = true
      reset = math.ceil((cost + reserve - left) * interval)
      remaining = math.max(0, math.floor(left))
    else
      ahead = ahead_of(want, left - cost - reserve)
      local after = tat + (cost + ahead) * interval
      remaining = math.max(0, math.floor((now + tolerance - after) / interval + 1e-6))
      reset = math.ceil(after - now)
      local ttl = math.max(1, math.ceil((after - now) / 1000))
      writes[#writes + 1] = {'SET', key, string.format('%.0f', after), 'PX', ttl}
    end

  elseif kind == 'c' then
    local start, stop
    local last
    for border in string.gmatch(detail, '%d+') do
      border = tonumber(border) * 1000000
      if last and last <= now and now < border then
        start, stop = last, border
      end
      last = border
    end
    local known = redis.call('HMGET', key, 'start', 'used')
    if not start or tonumber(known[1] or -1) ~= start then
      return {2, i, 0, 0, 0, start and start / 1000000 or 0}
    end
    used = tonumber(known[2])
    reset = stop - now
    local left = amount - used
    remaining = math.max(0, left)
    if left < cost + reserve then
      refused = true
    else
      ahead = ahead_of(want, left - cost - reserve)
      remaining = left - cost - ahead
      writes[#writes + 1] = {'HINCRBY', key, 'used', cost + ahead}
    end

  else
    local member, seconds = string.match(detail, '^(.*)/(%d+)$')
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    used = redis.call('ZCARD', key)
    remaining = math.max(0, amount - used)
    if used + cost + reserve > amount then
      refused = true
      reset = 1000000
    else
      remaining = amount - used - cost
      local expires = now + seconds * 1000000
      writes[#writes + 1] = {'ZADD', key, string.format('%.0f', expires), member}
      writes[#writes + 1] = {'PEXPIRE', key, seconds * 1000 + 1000}
    end
  end

  if refused and answer[1] == 1 then
    answer[1], answer[2] = 0, i
  end
  for _, number in ipairs({ahead, remaining, reset, used}) do
    answer[#answer + 1] = number
  end
end

if answer[1] == 1 then
  for _, write in ipairs(writes) do
    redis.call(unpack(write))
  end
end
return answer
