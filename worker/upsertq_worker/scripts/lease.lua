-- Take a shard's lease if it is free, or prolong it if it is ours.
-- KEYS: 1 lease, 2 books, 3 stream
-- ARGV: 1 consumer group, 2 worker's name, 3 epoch we believe to hold (0: none), 4 life in ms, 5 '1' to take it if free
-- Returns: {epoch or 0 when it is not ours, holder's name or ''}
-- An epoch is handed out again only to a worker that held it when nobody came between (its lease ran out unnoticed).
-- With the lease the stream and its group are there, also after someone deleted them.
-- XACK of nothing comes before the other writes: after it they work even when the server is out of memory.
expect(KEYS[1], 'string')
expect_stream(KEYS[3])
expect_counters(KEYS[2], {epoch = 1})
if fault then return redis.error_reply(fault) end

local function ensure_group()
  redis.call('XACK', KEYS[3], ARGV[1], '0-1')
  local groups = redis.call('EXISTS', KEYS[3]) == 1 and redis.call('XINFO', 'GROUPS', KEYS[3]) or {}
  for _, group in ipairs(groups) do
    if by_name(group)['name'] == ARGV[1] then return end
  end
  redis.call('XGROUP', 'CREATE', KEYS[3], ARGV[1], '0', 'MKSTREAM')
end
local current = redis.call('GET', KEYS[1])
local mine = ARGV[3] .. ':' .. ARGV[2]
if current == mine then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  ensure_group()
  return {tonumber(ARGV[3]), ARGV[2]}
end
if current then
  local holder = string.match(current, '^%d+:(.+)$')
  if not holder or redis.call('PTTL', KEYS[1]) == -1 then
    damaged(KEYS[1], 'is no lease that a worker took: it never ends, or names no holder: DEL it')
  end
  if fault then return redis.error_reply(fault) end
  return {0, holder}
end
if ARGV[5] ~= '1' then return {0, ''} end
ensure_group()
local epoch = whole(redis.call('HGET', KEYS[2], 'epoch'))
if ARGV[3] == '0' or epoch ~= tonumber(ARGV[3]) then epoch = redis.call('HINCRBY', KEYS[2], 'epoch', 1) end
redis.call('SET', KEYS[1], string.format('%.0f', epoch) .. ':' .. ARGV[2], 'PX', ARGV[4])
return {epoch, ARGV[2]}
