-- The length of one shard's stream and its oldest entry's id, without carrying the entry itself.
-- KEYS: 1 stream
-- ARGV: none
-- Returns: {entries, oldest id or ''}
expect(KEYS[1], 'stream')
if fault then return redis.error_reply(fault) end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
return {redis.call('XLEN', KEYS[1]), oldest[1] and oldest[1][1] or ''}
