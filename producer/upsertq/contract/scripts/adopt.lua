-- Give a hash another incarnation, if it still has one of those that are named, or that one already.
-- KEYS: 1 books of a shard, or meta
-- ARGV: 1 the new incarnation, 2 '1' to put a hash in the place of what is of another type, 3 number of incarnations,
--       then these ('': none, and what is of another type); then fields and values to set with it
-- Returns: {the incarnation as it stands now, or ''}
-- DEL or HDEL comes first: after it HSET works even when the server is out of memory.
local foreign = not is_type(KEYS[1], 'hash')
if foreign and ARGV[2] ~= '1' then expect(KEYS[1], 'hash') end
if fault then return redis.error_reply(fault) end
local found = not foreign and redis.call('HGET', KEYS[1], 'incarnation') or ''
if found == ARGV[1] then return {found} end
local fields = 4 + tonumber(ARGV[3])
for i = 4, fields - 1 do
  if ARGV[i] == found then
    if foreign then redis.call('DEL', KEYS[1]) else redis.call('HDEL', KEYS[1], '') end
    redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], unpack(ARGV, fields))
    return {ARGV[1]}
  end
end
return {found}
