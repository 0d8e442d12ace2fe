-- Create a queue, or read what it is. Idempotent; the first caller fixes the number of shards.
-- KEYS: 1 meta
-- ARGV: 1 format version, 2 shards to create it with, 3 time in ms
-- Returns: {format, shards, dimension or '', created 1 or 0}
expect(KEYS[1], 'hash')
if fault then return redis.error_reply(fault) end
local created = 0
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'format', ARGV[1], 'shards', ARGV[2], 'created', ARGV[3])
  created = 1
end
local meta = redis.call('HMGET', KEYS[1], 'format', 'shards', 'dimension')
return {meta[1] or '', meta[2] or '', meta[3] or '', created}
