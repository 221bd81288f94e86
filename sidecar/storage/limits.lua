-- Takes the units that a request needs of all its limits, or of none.
--
-- KEYS[i]   state of limit i; all share one hash tag, so that a cluster keeps them together.
-- KEYS, last  the name of this take: set afterwards, with the units taken ahead of each limit.
--           If it is set before, the take was voided (limits_name.lua), and nothing is done.
-- ARGV      six values a limit, in order: kind, amount, cost, want, reserve, detail; in the end
--           for how many seconds the name is kept.
--   kind    's' sliding (GCRA), 'c' calendar, 'n' slots.
--   want    how many more units to take ahead, if plenty is left; the answer has their number.
--   detail  's': window in microseconds / units at once
--           'c': borders of periods in seconds, separated by commas; of a budget then a slash
--                and the percentages of its amount that are reported, ascending
--           'n': member / seconds until the slot is free in any case
-- Answer    {taken, i, then seven numbers a limit: ahead, remaining, reset, used, reported, passed,
--           begun}
--   taken   1: all taken. 0: limit i has no room until its reset.
--           2: limit i has no counter in this period; it has to begin (limits_begin.lua).
--   reset   microseconds until all is free again, or until the period ends.
--   reported  the highest percentage of a budget that a worker has received in this period, else 0
--   passed  the highest that is passed now: if it is higher, and all was taken, the caller reports
--           it. One caller does so, on whichever worker. Another amount is another budget.
--   begun   since when the counter of a calendar period includes all takes, else 0
--
-- State of 's', four numbers with / between them: the theoretical arrival time, in microseconds; the
-- amount it was computed with (if that has changed, as many units are used as before); and the last
-- long time in which all was free, from and until: a worker that was cut off then may still report
-- units that it gave out (limits_adjust.lua). For that it is kept for a minute longer. If that time
-- ends later than now, the clock was set back since: the whole state is set back by as much.
--
-- Time is the server's own: workers' clocks may differ.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local SHARE = 16  -- at most a sixteenth of the remaining units is taken ahead: near the limit, none.

local name = KEYS[#KEYS]
if redis.call('EXISTS', name) == 1 then
  return {0, 1}
end

local KEPT = 60000000
local LONGEST = 1e15  -- of microseconds until all is free: absurd counts must not overflow

-- Returns the arrival time, at least now, and the time in which all was free.
local function state_of(key, amount)
  local pattern = '^(%d+)/(%d+)/(%d+)/(%d+)$'
  local tat, reckoned_by, from, till = string.match(redis.call('GET', key) or '', pattern)
  if not tat then
    return now, now, now
  end
  tat, from, till = tonumber(tat), tonumber(from), tonumber(till)
  local set_back = math.max(0, till - now)  -- how far the clock was, since then
  tat, from, till = tat - set_back, from - set_back, till - set_back
  if tat > now then
    local left = (tat - now) * (amount > 0 and reckoned_by / amount or 1)
    return now + math.min(LONGEST, left), from, till
  end
  if now - tat > till - from - (now - till) then
    from, till = tat, now
  end
  return now, from, till
end

-- A unit that takes less than a microsecond must not be rounded away.
local function written(tat, interval, amount, from, till)
  local whole = interval < 1 and math.ceil(tat) or tat
  return string.format('%.0f/%.0f/%.0f/%.0f', whole, amount, from, till)
end

local function ahead_of(want, left)
  return math.max(0, math.min(want, math.floor(left / SHARE)))
end

local answer = {1, 0}
local writes = {}
local taken = {}

for i = 1, #KEYS - 1 do
  local key = KEYS[i]
  local at = (i - 1) * 6
  local kind, detail = ARGV[at + 1], ARGV[at + 6]
  local amount, cost = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local want, reserve = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local ahead, remaining, reset, used, reported, passed, begun = 0, 0, 0, 0, 0, 0, 0
  local refused = false

  if kind == 's' then
    local window, at_once = string.match(detail, '^(%d+)/(%d+)$')
    window, at_once = tonumber(window), tonumber(at_once)
    local interval = amount > 0 and window / amount or window
    local tolerance = at_once * interval
    local tat, from, till = state_of(key, amount)
    local left = (now + tolerance - tat) / interval
    if amount == 0 or left + 1e-6 < cost + reserve then
      refused = true
      reset = math.ceil(math.min(LONGEST, (cost + reserve - left) * interval))
      remaining = math.max(0, math.floor(left))
    else
      ahead = ahead_of(want, left - cost - reserve)
      local after = tat + (cost + ahead) * interval
      remaining = math.max(0, math.floor((now + tolerance - after) / interval + 1e-6))
      reset = math.ceil(after - now)
      local text = written(after, interval, amount, from, till)
      writes[#writes + 1] = {'SET', key, text, 'PX', math.ceil((after - now + KEPT) / 1000)}
    end

  elseif kind == 'c' then
    local start, stop
    local last
    local borders, percentages = string.match(detail, '^([^/]*)/?(.*)$')
    for border in string.gmatch(borders, '%d+') do
      border = tonumber(border) * 1000000
      if last and last <= now and now < border then
        start, stop = last, border
      end
      last = border
    end
    local known = redis.call('HMGET', key, 'start', 'used', 'told', 'begun')
    if not start or tonumber(known[1] or -1) ~= start then
      return {2, i, 0, 0, 0, start and start / 1000000 or 0, 0, 0, 0}
    end
    used, begun = tonumber(known[2]), tonumber(known[4] or 0)
    reset = stop - now
    local left = amount - used
    remaining = math.max(0, left)
    if left < cost + reserve then
      refused = true
    else
      ahead = ahead_of(want, left - cost - reserve)
      remaining = left - cost - ahead
      reported = tonumber(string.match(known[3] or '', '^' .. ARGV[at + 2] .. ':(%d+)$') or 0)
      passed = reported
      for percentage in string.gmatch(percentages, '%d+') do
        percentage = tonumber(percentage)
        if percentage > passed and (used + cost) * 100 >= amount * percentage then
          passed = percentage
        end
      end
      if passed > reported then
        writes[#writes + 1] = {'HSET', key, 'told', ARGV[at + 2] .. ':' .. passed}
      end
      used = used + cost + ahead
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
  taken[i] = string.format('%.0f', ahead)
  for _, number in ipairs({ahead, remaining, reset, used, reported, passed, begun}) do
    answer[#answer + 1] = number
  end
end

if answer[1] == 1 then
  for _, write in ipairs(writes) do
    redis.call(unpack(write))
  end
  redis.call('SET', name, table.concat(taken, ','), 'EX', ARGV[#ARGV])
end
return answer
