-- Remove the books of runs in one shard; each only if nothing of it is pending or dead there.
-- KEYS: 1 books, then the books of the runs
-- ARGV: 1 incarnation
-- Returns: for each run 1 where its books are gone now, 0 where they stay; {-1, incarnation found or ''} for another
--       incarnation: nothing was done
expect(KEYS[1], 'hash')
if fault then return redis.error_reply(fault) end
local found = redis.call('HGET', KEYS[1], 'incarnation')
if found ~= ARGV[1] then return {-1, found or ''} end
local reply = {}
for i = 2, #KEYS do
  local counts = is_type(KEYS[i], 'hash') and redis.call('HMGET', KEYS[i], 'pending', 'dead') or {'?', '?'}
  local settled = whole(counts[1]) == 0 and whole(counts[2]) == 0
  if settled then redis.call('UNLINK', KEYS[i]) end
  reply[#reply + 1] = settled and 1 or 0
end
return reply
