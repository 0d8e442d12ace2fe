-- Remove dead letters of one shard for good, and count them as discarded.
-- KEYS: 1 stream (untouched), 2 books, 3 stream of dead letters, 4 marks of dead ids, then the books of the runs that
--       occur: as `replay` has them
-- ARGV: for each letter: its stream id, place of its run among KEYS (0: no run)
-- Returns: for each letter 1 when it was discarded now, 0 when it was gone (superseded, discarded or replayed before)
-- XDEL comes first: after it the other commands work even when the server is out of memory.
expect(KEYS[3], 'stream')
expect(KEYS[4], 'hash')
local letters, adds, seen = {}, {}, {}

local function add(books, name, by)
  adds[books] = adds[books] or {}
  adds[books][name] = (adds[books][name] or 0) + by
end

for i = 1, fault and 0 or #ARGV, 2 do
  local found = not seen[ARGV[i]] and redis.call('XRANGE', KEYS[3], ARGV[i], ARGV[i])[1]
  seen[ARGV[i]] = true
  if found then
    local letter, run = by_name(found[2]), tonumber(ARGV[i + 1])
    letters[i] = letter
    for _, books in ipairs(run > 0 and {KEYS[2], KEYS[run]} or {KEYS[2]}) do
      add(books, 'dead', -1)
      add(books, 'discarded', 1)
      if letter['reason'] then add(books, 'reason:' .. letter['reason'], -1) end
    end
  end
end
for books, names in pairs(adds) do expect_counters(books, names) end
if fault then return redis.error_reply(fault) end

local function unmark(letter, dead_id)
  local id = sole_id(letter)
  if not (id and letter['ns']) then return end
  local field = letter['ns'] .. '\0' .. id
  local tokens, needed = {}, false
  for token in string.gmatch(redis.call('HGET', KEYS[4], field) or '', '%S+') do
    if string.match(token, '^D,[%d%-]+,([%d%-]+)') ~= dead_id then
      tokens[#tokens + 1] = token
      needed = needed or string.sub(token, 1, 1) ~= 'A'
    end
  end
  if needed then
    redis.call('HSET', KEYS[4], field, table.concat(tokens, ' '))
  else
    redis.call('HDEL', KEYS[4], field)
  end
end

local gone = {}
for i = 1, #ARGV, 2 do
  if letters[i] then
    redis.call('XDEL', KEYS[3], ARGV[i])
    unmark(letters[i], ARGV[i])
  end
  gone[#gone + 1] = letters[i] and 1 or 0
end
for books, names in pairs(adds) do
  for name, by in pairs(names) do redis.call('HINCRBY', books, name, by) end
end
return gone
