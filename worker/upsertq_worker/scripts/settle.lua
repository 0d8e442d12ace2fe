-- Settle entries of one shard: take them out of the queue and put their records into the books, all at once.
-- KEYS: 1 stream, 2 books, 3 lease, 4... books of the runs that occur
-- ARGV: 1 consumer group, 2 'epoch:name' of the lease, 3 number of entries; then for each: stream id,
--       place of its run among KEYS (0: no run), records, bytes, acked, superseded, dead
-- Returns: {1, entries settled now}, or {0, the lease's value or ''} when the lease is not ours: nothing was done
-- Only what XACK really removes is counted, so a call that is repeated counts nothing twice. XACK comes first: after
-- it the other commands work even when the server is out of memory.
local current = redis.call('GET', KEYS[3])
if current ~= ARGV[2] then return {0, current or ''} end
local settled, at = 0, 4
for _ = 1, tonumber(ARGV[3]) do
  local id, run = ARGV[at], tonumber(ARGV[at + 1])
  if redis.call('XACK', KEYS[1], ARGV[1], id) == 1 then
    redis.call('XDEL', KEYS[1], id)
    settled = settled + 1
    local books = run > 0 and {KEYS[2], KEYS[run]} or {KEYS[2]}
    for _, key in ipairs(books) do
      -- (minus nought is '-0' in Lua, which the server takes for no integer)
      if ARGV[at + 2] ~= '0' then redis.call('HINCRBY', key, 'pending', -ARGV[at + 2]) end
      if ARGV[at + 3] ~= '0' then redis.call('HINCRBY', key, 'bytes', -ARGV[at + 3]) end
      if ARGV[at + 4] ~= '0' then redis.call('HINCRBY', key, 'acked', ARGV[at + 4]) end
      if ARGV[at + 5] ~= '0' then redis.call('HINCRBY', key, 'superseded', ARGV[at + 5]) end
      if ARGV[at + 6] ~= '0' then redis.call('HINCRBY', key, 'dead', ARGV[at + 6]) end
    end
  end
  at = at + 7
end
return {1, settled}
