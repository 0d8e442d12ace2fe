-- Give a shard's lease up: at once, or when a quarantine ends. Either way the next takeover is a clean one.
-- KEYS: 1 lease, 2 books
-- ARGV: 1 incarnation, 2 'epoch:name' as we hold it, 3 ms to keep it for (0: give it up now)
-- Returns: 1 when it was ours, else 0; {-1, incarnation found or ''} for another incarnation: nothing was done
-- A lease is kept while a request of its holder may still take effect. DEL or PEXPIRE comes first: after it HSET works
-- even when the server is out of memory.
expect(KEYS[1], 'string')
expect(KEYS[2], 'hash')
if fault then return redis.error_reply(fault) end
local found = redis.call('HGET', KEYS[2], 'incarnation')
if found ~= ARGV[1] then return {-1, found or ''} end
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
if tonumber(ARGV[3]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) else redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[2], 'released', string.match(ARGV[2], '^%d+'))
return 1
