-- Move dead letters of one shard to the tails of their lanes' streams, in the order given; each is in one place at any
-- instant.
-- KEYS: 1 books, 2 lanes, 3 bell, 4 dead letters, 5 marks of dead ids, then the streams of the lanes and the books of
--       the runs that occur
-- ARGV: 1 incarnation, 2 number of letters; then for each: its stream id among the dead letters, place of its lane's
--       stream among KEYS, place of its run's books (0: no run), namespace, run or ''
-- Returns: for each letter 1 when it was moved now; 0 when it was left because it is gone (superseded, discarded or
--       replayed before) or is of another namespace or run than the caller says; 2 when it was left because it is
--       damaged or its stream took no entry; {-1, incarnation found or ''} for another incarnation; the error DAMAGED
--       names a field that is no counter: nothing was done
-- The first write is XADD: when the server is out of memory it fails and nothing has happened; after it nothing fails
-- for that reason. All else that can fail is read and checked before.
local unpack = unpack or table.unpack
local told = redis.call('HMGET', KEYS[1], 'incarnation', 'clock')
if told[1] ~= ARGV[1] then return {-1, told[1] or ''} end
local problem, names, values, changed = nil, {}, {}, {}

local function damaged(key, field, value)
  problem = problem or 'DAMAGED ' .. key .. ' ' .. field .. ' ' ..
    string.gsub(string.sub(value, 1, 40), '[^%w%p]', '?')
end

local function digits(value, most)
  local found = string.match(value or '0', '^%-?(%d+)$')
  return found and #found <= most
end

local function want(place, name)
  if not names[place] then names[place], values[place], changed[place] = {}, {}, {} end
  if values[place][name] then return end
  names[place][#names[place] + 1] = name
  local value = redis.call('HGET', KEYS[place], name)
  if not digits(value, 15) then damaged(KEYS[place], name, value) end
  values[place][name] = tonumber(value or 0) or 0
end

local function count(place, name, by)
  values[place][name], changed[place][name] = values[place][name] + by, true
end

local kept = {'v', 'op', 'n', 'ns', 'ids', 'dim', 'values', 'sparse', 'meta', 'run', 'at', 'seq'}
local needed = {'v', 'op', 'n', 'ns', 'ids', 'dim', 'seq'}
local payload = {'ids', 'values', 'sparse', 'meta'}

local function id_of(letter) -- nil for a letter that no worker could read as an entry of one record
  for _, name in ipairs(needed) do
    if not letter[name] then return nil end
  end
  if letter['n'] ~= '1' or not string.match(letter['seq'], '^%d+%-%d+%-%d+$') then return nil end
  if not digits(letter['depth'], 6) or not digits(letter['at'], 15) or not digits(letter['dim'], 6) then return nil end
  if #(letter['values'] or '') ~= 4 * tonumber(letter['dim']) then return nil end
  local sound, ids = pcall(cjson.decode, letter['ids'])
  if not sound or type(ids) ~= 'table' or #ids ~= 1 or type(ids[1]) ~= 'string' then return nil end
  return ids[1]
end

local clock_ms, clock_n = string.match(told[2] or '0-0', '^(%d+)%-(%d+)$')
if not clock_ms or #clock_ms > 15 or #clock_n > 15 then
  damaged(KEYS[1], 'clock', told[2])
  return redis.error_reply(problem)
end
clock_ms, clock_n = tonumber(clock_ms), tonumber(clock_n)
redis.call('SCARD', KEYS[2])
redis.call('XLEN', KEYS[3])
redis.call('XLEN', KEYS[4])
redis.call('HLEN', KEYS[5])

local reply, moves, length, marks, fields, seen = {}, {}, {}, {}, {}, {}
for i = 3, 2 + 5 * tonumber(ARGV[2]), 5 do
  local dead_id, stream, place = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local found = not seen[dead_id] and redis.call('XRANGE', KEYS[4], dead_id, dead_id)[1]
  seen[dead_id] = true
  reply[#reply + 1] = 0
  length[stream] = length[stream] or redis.call('XLEN', KEYS[stream])
  local letter = {}
  if found then
    for k = 1, #found[2], 2 do letter[found[2][k]] = found[2][k + 1] end
  end
  local id = id_of(letter)
  if found and not id then
    reply[#reply] = 2
  elseif found and letter['ns'] == ARGV[i + 3] and (letter['run'] or '') == ARGV[i + 4] then
    local field = letter['ns'] .. '\0' .. id
    for _, books in ipairs(place > 0 and {1, place} or {1}) do
      want(books, 'dead')
      want(books, 'pending')
      want(books, 'bytes')
      if letter['reason'] then want(books, 'reason:' .. letter['reason']) end
    end
    if marks[field] == nil then
      marks[field] = redis.call('HGET', KEYS[5], field) or ''
      fields[#fields + 1] = field
    end
    reply[#reply] = 2
    moves[#moves + 1] = {dead_id = dead_id, letter = letter, stream = stream, books = place, field = field, at = #reply}
  end
end
if problem then return redis.error_reply(problem) end

local function append(key, letter)
  local entry = {}
  for _, name in ipairs(kept) do
    if letter[name] then
      entry[#entry + 1] = name
      entry[#entry + 1] = letter[name]
    end
  end
  local now = redis.call('TIME')
  local ms, n = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000), 0
  if ms <= clock_ms then ms, n = clock_ms, clock_n + 1 end
  local id = string.format('%.0f-%.0f', ms, n)
  local depth = string.format('%.0f', tonumber(letter['depth'] or 0) + 1)
  local added = redis.pcall('XADD', key, id, 'depth', depth, unpack(entry))
  if type(added) == 'table' and added.err then return nil, added end
  clock_ms, clock_n = ms, n
  return id
end

local function remark(move)
  local words = {}
  for word in string.gmatch(marks[move.field], '%S+') do
    if string.match(word, '^D,[%d%-]+,([%d%-]+)') ~= move.dead_id then words[#words + 1] = word end
  end
  words[#words + 1] = 'R,' .. move.letter['seq']
  marks[move.field] = table.concat(words, ' ')
  redis.call('HSET', KEYS[5], move.field, marks[move.field])
end

local clock = nil
for _, move in ipairs(moves) do
  local id, failure = append(KEYS[move.stream], move.letter)
  if not id then
    if not clock then return failure end
    break
  end
  clock = id
  redis.call('XDEL', KEYS[4], move.dead_id)
  if length[move.stream] == 0 then
    redis.call('SADD', KEYS[2], move.letter['ns'])
    local rung = redis.pcall('XADD', KEYS[3], 'MAXLEN', 100, id, 'ns', move.letter['ns'])
    -- a bell that was tampered with has a greater id: it must ring all the same
    if type(rung) == 'table' and rung.err then
      redis.call('XADD', KEYS[3], 'MAXLEN', 100, '*', 'ns', move.letter['ns'])
    end
    length[move.stream] = 1
  end
  local size = 0
  for _, name in ipairs(payload) do size = size + #(move.letter[name] or '') end
  for _, books in ipairs(move.books > 0 and {1, move.books} or {1}) do
    count(books, 'dead', -1)
    count(books, 'pending', 1)
    count(books, 'bytes', size)
    if move.letter['reason'] then count(books, 'reason:' .. move.letter['reason'], -1) end
  end
  remark(move)
  reply[move.at] = 1
end
for place in pairs(names) do
  local written = {}
  for name in pairs(changed[place]) do
    written[#written + 1] = name
    written[#written + 1] = string.format('%.0f', values[place][name])
  end
  if #written > 0 then redis.call('HSET', KEYS[place], unpack(written)) end
end
if clock then redis.call('HSET', KEYS[1], 'clock', clock) end
return reply
