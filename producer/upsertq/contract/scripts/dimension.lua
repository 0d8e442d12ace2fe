-- Fix a queue's dimension unless it is fixed.
-- KEYS: 1 meta
-- ARGV: 1 incarnation, 2 dimension
-- Returns: {the dimension that holds}; {-1, incarnation found or ''} for another incarnation: nothing was done
expect(KEYS[1], 'hash')
if fault then return redis.error_reply(fault) end
local found = redis.call('HGET', KEYS[1], 'incarnation')
if found ~= ARGV[1] then return {-1, found or ''} end
redis.call('HSETNX', KEYS[1], 'dimension', ARGV[2])
return {redis.call('HGET', KEYS[1], 'dimension')}
