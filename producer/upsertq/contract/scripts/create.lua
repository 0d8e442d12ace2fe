-- Create a queue, or read what it is; or note that its creation is complete. Idempotent: the first caller decides.
-- KEYS: 1 meta
-- ARGV: 1 incarnation that a new queue gets, 2 format version, 3 shards, 4 time in ms, 5 '' to create or read;
--       'ready' when every shard holds incarnation 1: says so in a meta of that incarnation, and creates nothing
-- Returns: {format, incarnation, shards, dimension, state, created 1 or 0}; a field that is missing is ''
-- A queue stays in state `creating` until every shard's books hold its incarnation (see found.lua): whatever finds it
-- so completes it.
expect(KEYS[1], 'hash')
if fault then return redis.error_reply(fault) end
local names = {'format', 'incarnation', 'shards', 'dimension', 'state'}
local created = 0
if ARGV[5] == 'ready' then
  if redis.call('HGET', KEYS[1], 'incarnation') == ARGV[1] then redis.call('HSET', KEYS[1], 'state', 'ready') end
elseif redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'format', ARGV[2], 'incarnation', ARGV[1], 'shards', ARGV[3], 'created', ARGV[4],
    'state', 'creating')
  created = 1
end
local meta = redis.call('HMGET', KEYS[1], unpack(names))
local reply = {}
for i = 1, #names do reply[i] = meta[i] or '' end
reply[#reply + 1] = created
return reply
