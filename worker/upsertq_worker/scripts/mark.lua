-- Write down which entries of a shard are in work, so that their share in a worker's death is known afterwards.
-- KEYS: 1 stream, 2 lease, 3 marks of suspects (hash: stream id -> mark, ' by ', worker's name)
-- ARGV: 1 consumer group, 2 'epoch:name' of the lease, 3 ' by name'; then for each entry: stream id, mark ('': remove it)
-- Returns: entries whose mark was changed
-- Whoever lost the lease may change the marks that it made alone: it lives, so they are no evidence.
-- Only entries that are pending are marked, so that no mark outlives its entry. XACK of nothing comes first: after it
-- the other commands work even when the server is out of memory.
-- Marks are a help, no condition: where their key is of a foreign type, none are made.
expect(KEYS[1], 'stream')
expect(KEYS[2], 'string')
if fault then return redis.error_reply(fault) end
if not is_type(KEYS[3], 'hash') then return 0 end
local ours = redis.call('GET', KEYS[2]) == ARGV[2]
redis.call('XACK', KEYS[1], ARGV[1], '0-1')
local changed = 0

local function is_pending(id)
  local told = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  return not told['err'] and #told > 0
end

for i = 4, #ARGV, 2 do
  local id, mark = ARGV[i], ARGV[i + 1]
  if ours or string.sub(redis.call('HGET', KEYS[3], id) or '', -#ARGV[3]) == ARGV[3] then
    if mark == '' then
      changed = changed + redis.call('HDEL', KEYS[3], id)
    elseif is_pending(id) then
      redis.call('HSET', KEYS[3], id, mark .. ARGV[3])
      changed = changed + 1
    end
  end
end
return changed
