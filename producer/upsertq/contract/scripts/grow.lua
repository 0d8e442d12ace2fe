-- Make one more shard of a queue that is being resharded, or go on with it: its books, and a ledger of the shard from
-- which its records come.
-- KEYS: 1 books, 2 ledger
-- ARGV: 1 incarnation that the queue gets, 2 incarnation that the books have before, or '', 3 clock of the shard from
--       which its records come; then, where there is a ledger, its life in ms, namespaces and ordinals
-- Returns: {1}; {-1, incarnation found or ''}: it is of another incarnation, or has counted something: nothing was done
-- What an earlier attempt left behind has counted nothing, and is taken over.
expect(KEYS[1], 'hash')
expect(KEYS[2], 'hash')
if fault then return redis.error_reply(fault) end
local found = redis.call('HMGET', KEYS[1], 'incarnation', 'enqueued')
if found[1] ~= ARGV[1] then
  if found[2] or (found[1] or '') ~= ARGV[2] then return {-1, found[1] or ''} end
  redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'clock', ARGV[3])
end
if #ARGV > 4 then
  redis.call('HSET', KEYS[2], unpack(ARGV, 5))
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return {1}
