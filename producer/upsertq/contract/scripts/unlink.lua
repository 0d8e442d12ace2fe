-- Remove keys of a queue that is being deleted.
-- KEYS: 1 the hash that tells the incarnation (books of their shard, or meta), then the keys, which may have it at the end
-- ARGV: 1 incarnation
-- Returns: {keys removed now}; {-1, incarnation found or ''} for another incarnation: nothing was done
-- UNLINK frees what is large beside the server's work.
expect(KEYS[1], 'hash')
if fault then return redis.error_reply(fault) end
local found = redis.call('HGET', KEYS[1], 'incarnation')
if found ~= ARGV[1] then return {-1, found or ''} end
local removed = 0
for i = 2, #KEYS do removed = removed + redis.call('UNLINK', KEYS[i]) end
return {removed}
