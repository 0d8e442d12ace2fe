-- Give a shard's lease up: at once, or when a quarantine ends.
-- KEYS: 1 lease
-- ARGV: 1 'epoch:name' as we hold it, 2 ms to keep it for (0: give it up now)
-- Returns: 1 when it was ours, else 0
if not is_type(KEYS[1], 'string') or redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) else redis.call('DEL', KEYS[1]) end
return 1
