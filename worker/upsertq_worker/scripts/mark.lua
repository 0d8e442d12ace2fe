-- Write down what is about to be sent alone, so that its share in a worker's death is known afterwards.
-- KEYS: 1 lease, 2 books
-- ARGV: 1 incarnation, 2 'epoch:name' as we hold the lease, 3 unclean deaths in a row to write ('': leave them),
--       4 mark ('': remove it)
-- Returns: 1 when it was done, 0 when the lease is not ours: nothing was done; {-1, incarnation found or ''} for
-- another incarnation
-- HDEL comes first: after it HSET works even when the server is out of memory.
expect(KEYS[1], 'string')
expect(KEYS[2], 'hash')
if fault then return redis.error_reply(fault) end
local found = redis.call('HGET', KEYS[2], 'incarnation')
if found ~= ARGV[1] then return {-1, found or ''} end
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[2], 'mark')
if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], 'mark', ARGV[4]) end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], 'deaths', ARGV[3]) end
return 1
