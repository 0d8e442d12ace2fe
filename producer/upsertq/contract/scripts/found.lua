-- Read the incarnation that one shard belongs to, or give it to a shard that is new.
-- KEYS: 1 books
-- ARGV: 1 incarnation, 2 '1' to write it where there is none (only while the queue's meta says `creating`)
-- Returns: {incarnation as it stands now, or ''}; {'?'} for books that count something but belong to no incarnation:
-- they are never adopted, for their records are those of a queue that is gone.
expect(KEYS[1], 'hash')
if fault then return redis.error_reply(fault) end
local found = redis.call('HGET', KEYS[1], 'incarnation')
if found then return {found} end
if redis.call('EXISTS', KEYS[1]) == 1 then return {'?'} end
if ARGV[2] ~= '1' then return {''} end
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1])
return {ARGV[1]}
