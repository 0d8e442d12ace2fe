-- Remove dead letters of one shard for good, and count them as discarded.
-- KEYS: 1 books, 2 dead letters, 3 marks of dead ids, then the books of the runs that occur
-- ARGV: 1 incarnation; then for each letter: its stream id, place of its run's books among KEYS (0: no run), run or ''
-- Returns: for each letter 1 when it was discarded now, 0 when it was left: it is gone (superseded, discarded or
--       replayed before), or it is of another run than the caller says; {-1, incarnation found or ''} for another
--       incarnation; the error DAMAGED names a field that is no counter: nothing was done
-- A damaged letter can be discarded; its mark, where its id cannot be read, stays and means nothing.
-- All that can fail is read and checked before the first write, which is XDEL: after it the other commands work even
-- when the server is out of memory.
expect(KEYS[1], 'hash')
expect(KEYS[2], 'stream')
for i = 3, #KEYS do expect(KEYS[i], 'hash') end
if fault then return redis.error_reply(fault) end
local incarnation = redis.call('HGET', KEYS[1], 'incarnation')
if incarnation ~= ARGV[1] then return {-1, incarnation or ''} end
local adds = {}

local function count(place, name, by)
  adds[place] = adds[place] or {}
  adds[place][name] = (adds[place][name] or 0) + by
end

local reply, removed, fields, marks, seen = {}, {}, {}, {}, {}
for i = 2, #ARGV, 3 do
  local dead_id, place, run = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local found = not seen[dead_id] and redis.call('XRANGE', KEYS[2], dead_id, dead_id)[1]
  local letter = found and by_name(found[2]) or {}
  reply[#reply + 1] = 0
  if found and (letter['run'] or '') == run then
    reply[#reply], seen[dead_id] = 1, true
    removed[#removed + 1] = dead_id
    for _, books in ipairs(place > 0 and {1, place} or {1}) do
      count(books, 'dead', -1)
      count(books, 'discarded', 1)
      if letter['reason'] then count(books, 'reason:' .. letter['reason'], -1) end
    end
    local id = sole_id(letter)
    if id and letter['ns'] then
      local field = letter['ns'] .. '\0' .. id
      if marks[field] == nil then
        fields[#fields + 1] = field
        marks[field] = redis.call('HGET', KEYS[3], field) or ''
      end
    end
  end
end
local counters = {}
for place, names in pairs(adds) do counters[place] = expect_counters(KEYS[place], names) end
if fault then return redis.error_reply(fault) end

for _, dead_id in ipairs(removed) do redis.call('XDEL', KEYS[2], dead_id) end
for place, names in pairs(adds) do
  local written = {}
  for name, by in pairs(names) do
    written[#written + 1] = name
    written[#written + 1] = string.format('%.0f', counters[place][name] + by)
  end
  redis.call('HSET', KEYS[place], unpack(written))
end
for _, field in ipairs(fields) do
  local words, needed = {}, false
  for word in string.gmatch(marks[field], '%S+') do
    if not seen[string.match(word, '^D,[%d%-]+,([%d%-]+)') or ''] then
      words[#words + 1] = word
      needed = needed or string.sub(word, 1, 1) ~= 'A'
    end
  end
  if needed then
    redis.call('HSET', KEYS[3], field, table.concat(words, ' '))
  else
    redis.call('HDEL', KEYS[3], field)
  end
end
return reply
