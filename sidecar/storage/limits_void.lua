-- Keeps takes from being made that are still on their way, and finds those that were made.
--
-- KEYS      names of takes, as in limits.lua. ARGV: for how many seconds they stay void.
-- Answer    for each what the take left under its name: what it took ahead of its limits, separated
--           by commas. Empty where there was no such take, and will be none: its name is used now.
--           Asked again, it answers the same.

local answer = {}
for i, name in ipairs(KEYS) do
  redis.call('SET', name, '', 'NX', 'EX', ARGV[1])
  answer[i] = redis.call('GET', name)
end
return answer
