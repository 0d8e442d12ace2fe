-- Remove dead letters of one shard for good, and count them as discarded.
-- KEYS: 1 books, 2 dead letters, 3 marks of dead ids, then the books of the runs that occur
-- ARGV: 1 incarnation; then for each letter: its stream id, place of its run's books among KEYS (0: no run), run or ''
-- Returns: for each letter 1 when it was discarded now, 0 when it was left: it is gone (superseded, discarded or
--       replayed before), or it is of another run than the caller says; {-1, incarnation found or ''} for another
--       incarnation; the error DAMAGED names a field that is no counter: nothing was done
-- A damaged letter can be discarded; its mark, where its id cannot be read, stays and means nothing.
-- All that can fail is read and checked before the first write, which is XDEL: after it the other commands work even
-- when the server is out of memory.
local unpack = unpack or table.unpack
local incarnation = redis.call('HGET', KEYS[1], 'incarnation')
if incarnation ~= ARGV[1] then return {-1, incarnation or ''} end
local problem, names, values = nil, {}, {}

local function count(place, name, by)
  if not names[place] then names[place], values[place] = {}, {} end
  if not values[place][name] then names[place][#names[place] + 1] = name end
  values[place][name] = (values[place][name] or 0) + by
end

redis.call('XLEN', KEYS[2])
redis.call('HLEN', KEYS[3])
local reply, removed, fields, marks, seen = {}, {}, {}, {}, {}
for i = 2, #ARGV, 3 do
  local dead_id, place, run = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local found = not seen[dead_id] and redis.call('XRANGE', KEYS[2], dead_id, dead_id)[1]
  local letter = {}
  if found then
    for k = 1, #found[2], 2 do letter[found[2][k]] = found[2][k + 1] end
  end
  reply[#reply + 1] = 0
  if found and (letter['run'] or '') == run then
    reply[#reply], seen[dead_id] = 1, true
    removed[#removed + 1] = dead_id
    for _, books in ipairs(place > 0 and {1, place} or {1}) do
      count(books, 'dead', -1)
      count(books, 'discarded', 1)
      if letter['reason'] then count(books, 'reason:' .. letter['reason'], -1) end
    end
    local sound, ids = pcall(cjson.decode, letter['ids'] or '')
    if sound and type(ids) == 'table' and type(ids[1]) == 'string' and letter['ns'] then
      local field = letter['ns'] .. '\0' .. ids[1]
      if marks[field] == nil then
        fields[#fields + 1] = field
        marks[field] = redis.call('HGET', KEYS[3], field) or ''
      end
    end
  end
end
for place in pairs(names) do
  local told = redis.call('HMGET', KEYS[place], unpack(names[place]))
  for i, name in ipairs(names[place]) do
    local digits = string.match(told[i] or '0', '^%-?(%d+)$')
    if not digits or #digits > 15 then
      problem = 'DAMAGED ' .. KEYS[place] .. ' ' .. name .. ' ' ..
        string.gsub(string.sub(told[i], 1, 40), '[^%w%p]', '?')
    else
      values[place][name] = values[place][name] + tonumber(told[i] or 0)
    end
  end
end
if problem then return redis.error_reply(problem) end

for _, dead_id in ipairs(removed) do redis.call('XDEL', KEYS[2], dead_id) end
for place in pairs(names) do
  local written = {}
  for _, name in ipairs(names[place]) do
    written[#written + 1] = name
    written[#written + 1] = string.format('%.0f', values[place][name])
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
