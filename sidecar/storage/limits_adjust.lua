-- Adjusts the use of limits: more or fewer units were used than taken, or a slot is free again.
--
-- KEYS and hash tag as in limits.lua; the last one belongs to the sender.
-- ARGV: four values a limit: kind, amount, change, detail; in the end the number of the batch, and
-- for how many seconds it is kept. A batch with this or a lower number of this sender was applied
-- before, and its answer was lost: nothing is done.
--   detail  's': window in microseconds / for how long the units have been used, or were taken
--           / units at once
--           'c': start of the period they were taken in, in seconds / that time, in microseconds
--           'n': member
-- A change to a past period is left out: its use is in the usage records. Use in a period whose
-- counter has not begun is added when it begins (limits_begin.lua). A counter does not include units
-- taken before it began: if they were returned, it would fall below the use, by as much as all
-- requests under way had taken.
--
-- Each change succeeds or fails by itself, as at a key that another program has written to.
-- Answer: how many failed.
--
-- Units of 's' that are not counted yet were used some time ago, and drain since then. They go to
-- that time: first into the time after it in which all was free.
--
-- Returned units of 's' drain since they were taken, all of them once the units at once would have.
-- What has drained is not returned: the time would be that of units that others have taken since,
-- and who lets requests wait and breaks them off together could use as much as they had taken.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local sender, number = KEYS[#KEYS], tonumber(ARGV[#ARGV - 1])
if tonumber(redis.call('GET', sender) or 0) >= number then
  return 0
end
redis.call('SET', sender, ARGV[#ARGV - 1], 'EX', ARGV[#ARGV])

local KEPT, LONGEST = 60000000, 1e15  -- as in limits.lua
local MOST = 1e15  -- units: more than any limit allows, and their sums stay whole numbers

local function slide(key, amount, change, detail)
  local window, age, at_once = string.match(detail, '^(%d+)/(%d+)/(%d+)$')
  local interval = window / amount
  local pattern = '^(%d+)/(%d+)/(%d+)/(%d+)$'
  local tat, reckoned_by, from, till = string.match(redis.call('GET', key) or '0/0/0/0', pattern)
  tat, from, till = tonumber(tat), tonumber(from), tonumber(till)
  if tat > now and tonumber(reckoned_by) ~= amount then
    tat = now + (tat - now) * reckoned_by / amount
  end
  local move = change * interval
  if change > 0 then
    local since = now - age
    local begin = math.max(from, since)
    local fits = math.max(0, math.min(move, till - begin))
    if fits > 0 then
      from = begin + fits
    end
    tat = math.max(tat, since) + move - fits
  else
    local left = math.min(tat - now, -move, at_once * interval - age)
    if left <= 0 then
      return  -- the returned units have drained
    end
    tat = tat - left
  end
  tat = math.min(tat, now + LONGEST)
  local whole = interval < 1 and math.ceil(tat) or tat
  local text = string.format('%.0f/%.0f/%.0f/%.0f', whole, amount, from, till)
  redis.call('SET', key, text, 'PX', math.ceil((math.max(0, tat - now) + KEPT) / 1000))
end

local function count(key, change, detail)
  local period, taken = string.match(detail, '^(%d+)/(%d+)$')
  local start = string.format('%.0f', period * 1000000)
  local known = redis.call('HMGET', key, 'start', 'used', 'early_start', 'early', 'begun')
  if change < 0 and (known[1] ~= start or tonumber(taken) < tonumber(known[5] or 0)) then
    return
  end
  local function sum(counted)
    return string.format('%.0f', math.max(0, math.min(MOST, counted + change)))
  end
  if known[1] == start then
    redis.call('HSET', key, 'used', sum(known[2]))
  elseif known[3] == start then
    redis.call('HSET', key, 'early', sum(known[4]))
  elseif tonumber(known[1] or 0) < tonumber(start) then
    redis.call('HSET', key, 'early_start', start, 'early', sum(0))
    if redis.call('TTL', key) < 90000 then
      redis.call('EXPIRE', key, 90000)
    end
  end
end

local function apply(i)
  local key, at = KEYS[i], (i - 1) * 4
  local kind, detail = ARGV[at + 1], ARGV[at + 4]
  local amount, change = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  if kind == 's' and amount > 0 then
    slide(key, amount, change, detail)
  elseif kind == 'c' then
    count(key, change, detail)
  elseif kind == 'n' then
    redis.call('ZREM', key, detail)
  end
end

local failed = 0
for i = 1, #KEYS - 1 do
  if not pcall(apply, i) then
    failed = failed + 1
  end
end
return failed
