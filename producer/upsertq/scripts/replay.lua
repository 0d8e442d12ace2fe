-- Move dead letters of one shard to the tail of its stream, in the order given; each is in one place at any instant.
-- KEYS: 1 stream, 2 books, 3 stream of dead letters, 4 marks of dead ids, then the books of the runs that occur
-- ARGV: for each letter: its stream id, place of its run among KEYS (0: no run)
-- Returns: for each letter 1 when it was moved now, 0 when it was gone (superseded, discarded or replayed before)
-- The first write is XADD: when the server is out of memory it fails and nothing has happened; after it nothing fails for
-- that reason. All keys are read before, so that one of a foreign type fails as early.
redis.call('XLEN', KEYS[1])
redis.call('XLEN', KEYS[3])
for i = 2, #KEYS do
  if i ~= 3 then redis.call('HGET', KEYS[i], 'pending') end
end

local kept = {'v', 'op', 'n', 'ns', 'ids', 'dim', 'values', 'sparse', 'meta', 'run', 'at', 'seq'}
local payload = {'ids', 'values', 'sparse', 'meta'}

local function remark(letter, dead_id)
  local field = letter['ns'] .. '\0' .. cjson.decode(letter['ids'])[1]
  local tokens = {}
  for token in string.gmatch(redis.call('HGET', KEYS[4], field) or '', '%S+') do
    if string.match(token, '^D,[%d%-]+,([%d%-]+)') ~= dead_id then tokens[#tokens + 1] = token end
  end
  tokens[#tokens + 1] = 'R,' .. letter['seq']
  redis.call('HSET', KEYS[4], field, table.concat(tokens, ' '))
end

local function move(dead_id, fields, run)
  local letter = {}
  for i = 1, #fields, 2 do letter[fields[i]] = fields[i + 1] end
  local entry, size = {}, 0
  for _, name in ipairs(kept) do
    if letter[name] then
      entry[#entry + 1] = name
      entry[#entry + 1] = letter[name]
    end
  end
  for _, name in ipairs(payload) do size = size + #(letter[name] or '') end
  redis.call('XADD', KEYS[1], '*', 'depth', tonumber(letter['depth'] or 0) + 1, unpack(entry))
  redis.call('XDEL', KEYS[3], dead_id)
  for _, books in ipairs(run > 0 and {KEYS[2], KEYS[run]} or {KEYS[2]}) do
    redis.call('HINCRBY', books, 'dead', -1)
    redis.call('HINCRBY', books, 'pending', 1)
    redis.call('HINCRBY', books, 'bytes', size)
    if letter['reason'] then redis.call('HINCRBY', books, 'reason:' .. letter['reason'], -1) end
  end
  remark(letter, dead_id)
end

local moved = {}
for i = 1, #ARGV, 2 do
  local found = redis.call('XRANGE', KEYS[3], ARGV[i], ARGV[i])[1]
  if found then move(ARGV[i], found[2], tonumber(ARGV[i + 1])) end
  moved[#moved + 1] = found and 1 or 0
end
return moved
