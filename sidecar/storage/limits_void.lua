-- Voids takes that may still be on their way, and returns those that were made.
--
-- KEYS      names of takes, as in limits.lua. ARGV: for how many seconds they stay void.
-- Answer    for each the value of its name: the units taken ahead of its limits, separated by commas.
--           Empty if the take was not made, and will not be: its name is used now. Repeated, it
--           answers the same.

local answer = {}
for i, name in ipairs(KEYS) do
  redis.call('SET', name, '', 'NX', 'EX', ARGV[1])
  answer[i] = redis.call('GET', name)
end
return answer
