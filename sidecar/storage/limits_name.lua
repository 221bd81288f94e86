-- Sets names that are not set yet, and returns the value of each. Repeated, it answers the same.
--
-- KEYS      names. ARGV: for how many seconds they are kept, and the value of new ones.
--
-- Takes, named as in limits.lua, are voided by an empty value. The answer is then empty for a take
-- that was not made, and will not be: its name is used now. Else it has the units taken ahead of
-- the limits, separated by commas.
-- Ends of requests are claimed by the name of a worker. The answer is the worker that was first.

local answer = {}
for i, name in ipairs(KEYS) do
  redis.call('SET', name, ARGV[2], 'NX', 'EX', ARGV[1])
  answer[i] = redis.call('GET', name)
end
return answer
