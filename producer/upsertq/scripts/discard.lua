-- Remove dead letters of one shard for good, and count them as discarded.
-- KEYS: 1 stream (untouched), 2 books, 3 stream of dead letters, 4 marks of dead ids, then the books of the runs that
--       occur: as `replay` has them
-- ARGV: for each letter: its stream id, place of its run among KEYS (0: no run)
-- Returns: for each letter 1 when it was discarded now, 0 when it was gone (superseded, discarded or replayed before)
-- XDEL comes first: after it the other commands work even when the server is out of memory. All keys are read before, so
-- that one of a foreign type fails while nothing has happened.
redis.call('XLEN', KEYS[3])
for i = 2, #KEYS do
  if i ~= 3 then redis.call('HGET', KEYS[i], 'pending') end
end

local function unmark(letter, dead_id)
  local field = letter['ns'] .. '\0' .. cjson.decode(letter['ids'])[1]
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
  local found = redis.call('XRANGE', KEYS[3], ARGV[i], ARGV[i])[1]
  if found then
    redis.call('XDEL', KEYS[3], ARGV[i])
    local letter = {}
    for k = 1, #found[2], 2 do letter[found[2][k]] = found[2][k + 1] end
    local run = tonumber(ARGV[i + 1])
    for _, books in ipairs(run > 0 and {KEYS[2], KEYS[run]} or {KEYS[2]}) do
      redis.call('HINCRBY', books, 'dead', -1)
      redis.call('HINCRBY', books, 'discarded', 1)
      if letter['reason'] then redis.call('HINCRBY', books, 'reason:' .. letter['reason'], -1) end
    end
    unmark(letter, ARGV[i])
  end
  gone[#gone + 1] = found and 1 or 0
end
return gone
