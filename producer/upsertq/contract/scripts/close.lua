-- Close one shard, if nothing of it is pending, dead or leased: its books get the incarnation that follows; or only look.
-- KEYS: 1 books, 2 lease, 3 lanes, 4 dead letters
-- ARGV: 1 incarnation, 2 the incarnation that follows ('': only look)
-- Returns: {1 when nothing holds it up (it is closed now, where that was asked for), else 0; records pending, records
--       dead, lanes with a stream, the lease's value or '', clock}; {-1, incarnation found or ''} for another
--       incarnation; the error DAMAGED names a counter that is none: nothing was done
-- HDEL of nothing comes first: after it HSET works even when the server is out of memory.
for i, kind in ipairs({'hash', 'string', 'set', 'stream'}) do expect(KEYS[i], kind) end
if fault then return redis.error_reply(fault) end
local books = redis.call('HMGET', KEYS[1], 'incarnation', 'pending', 'dead', 'clock')
if books[1] ~= ARGV[1] and (ARGV[2] == '' or books[1] ~= ARGV[2]) then return {-1, books[1] or ''} end
local pending, dead = whole(books[2]), whole(books[3])
if not pending then no_counter(KEYS[1], 'pending') end
if not dead then no_counter(KEYS[1], 'dead') end
clock_of(KEYS[1], books[4])
if fault then return redis.error_reply(fault) end
local lanes, letters, lease = redis.call('SCARD', KEYS[3]), redis.call('XLEN', KEYS[4]), redis.call('GET', KEYS[2]) or ''
if dead == 0 then dead = letters end
local free = pending == 0 and dead == 0 and lanes == 0 and lease == ''
if free and ARGV[2] ~= '' and books[1] ~= ARGV[2] then
  redis.call('HDEL', KEYS[1], '')
  redis.call('HSET', KEYS[1], 'incarnation', ARGV[2])
end
return {free and 1 or 0, pending, dead, lanes, lease, books[4] or '0-0'}
