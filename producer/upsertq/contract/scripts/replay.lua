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
for i, kind in ipairs({'hash', 'set', 'stream', 'stream', 'hash'}) do expect(KEYS[i], kind) end
if fault then return redis.error_reply(fault) end
local told = redis.call('HMGET', KEYS[1], 'incarnation', 'clock')
if told[1] ~= ARGV[1] then return {-1, told[1] or ''} end
local kept = {'v', 'op', 'n', 'ns', 'ids', 'dim', 'values', 'sparse', 'meta', 'run', 'at', 'seq'}
local payload = {'ids', 'values', 'sparse', 'meta'}

local function is_utf8(text)
  if not string.find(text, '[\128-\255]') then return true end
  local tail = '[\128-\191]'
  local left = text
  for _, sequence in ipairs({
    '[\241-\243]' .. tail .. tail .. tail, '\240[\144-\191]' .. tail .. tail, '\244[\128-\143]' .. tail .. tail,
    '[\225-\236\238\239]' .. tail .. tail, '\224[\160-\191]' .. tail, '\237[\128-\159]' .. tail, '[\194-\223]' .. tail,
  }) do left = string.gsub(left, sequence, 'x') end
  return not string.find(left, '[\128-\255]')
end

-- cjson takes numbers that are none in JSON, and characters that it forbids in strings
local function is_strict(text)
  if string.find(text, '[%z\1-\31]') or not is_utf8(text) then return false end
  local bare = string.gsub(string.gsub(text, '\\.', ''), '"[^"]*"', '')
  for token in string.gmatch(bare, '[^,:{}%[%] ]+') do
    local rest = string.match(token, '^%-?0(.*)$') or string.match(token, '^%-?[1-9]%d*(.*)$')
    if rest then
      rest = string.match(rest, '^%.%d+(.*)$') or rest
      rest = string.match(rest, '^[eE][+-]?%d+(.*)$') or rest
      if rest ~= '' then return false end
    elseif token ~= 'true' and token ~= 'false' and token ~= 'null' then
      return false
    end
  end
  return true
end

local function is_shallow(value, levels)
  if type(value) ~= 'table' then return true end
  if levels == 0 then return false end
  for _, inner in pairs(value) do
    if not is_shallow(inner, levels - 1) then return false end
  end
  return true
end

-- Whether a JSON column holds one object, or null.
local function is_column(text, sound)
  if not text or text == '' then return true end
  local read, items = pcall(cjson.decode, text)
  if not (read and is_strict(text) and type(items) == 'table' and #items == 1 and string.find(text, '^ *%[')) then
    return false
  end
  if items[1] == cjson.null then return true end
  return type(items[1]) == 'table' and string.find(text, '^ *%[ *{') and is_shallow(items[1], 16) and sound(items[1])
end

local function is_sparse(item)
  local indices, values, names = item['indices'], item['values'], 0
  for _ in pairs(item) do names = names + 1 end
  if names ~= 2 or type(indices) ~= 'table' or type(values) ~= 'table' or #indices ~= #values or #indices == 0 then
    return false
  end
  for i = 1, #indices do
    local index, value = indices[i], values[i]
    if type(index) ~= 'number' or index < 0 or index >= 2 ^ 32 or index % 1 ~= 0 or type(value) ~= 'number' then
      return false
    end
  end
  return true
end

local function is_number(text, most)
  local number = whole(text)
  return number and number >= 0 and number <= most
end

-- As `decode_letter` of `upsertq.contract.dead_letter` has it, for what a worker reads of it.
local function is_sound(letter)
  local id, dim = sole_id(letter), whole(letter['dim'])
  return letter['v'] == '2' and letter['op'] == 'upsert' and letter['n'] == '1' and id and is_strict(letter['ids'])
    and #id >= 1 and #id <= 512 and not string.find(id, '[%z\128-\255]')
    and letter['ns'] and #letter['ns'] <= 512 and not string.find(letter['ns'], '[%z\128-\255]')
    and letter['dim'] and is_number(letter['dim'], 20000) and #(letter['values'] or '') == 4 * dim
    and string.match(letter['seq'] or '', '^%d+%-%d+%-?%d*$') and #letter['seq'] <= 62
    and not string.find('-' .. letter['seq'], '%-0%d') and string.sub(letter['seq'], -1) ~= '-'
    and #(letter['run'] or '') <= 512 and not string.find(letter['run'] or '', '[%z\128-\255]')
    and is_number(letter['at'], 253402300799999) and is_number(letter['depth'], 999999)
    and is_column(letter['sparse'], is_sparse) and is_column(letter['meta'], function() return true end)
end

local clock_ms, clock_n = clock_of(KEYS[1], told[2])
local adds, done = {}, {}

local function count(counts, place, name, by)
  counts[place] = counts[place] or {}
  counts[place][name] = (counts[place][name] or 0) + by
end

local function count_move(counts, move)
  local size = 0
  for _, name in ipairs(payload) do size = size + #(move.letter[name] or '') end
  for _, books in ipairs(move.books > 0 and {1, move.books} or {1}) do
    count(counts, books, 'dead', -1)
    count(counts, books, 'pending', 1)
    count(counts, books, 'bytes', size)
    if move.letter['reason'] then count(counts, books, 'reason:' .. move.letter['reason'], -1) end
  end
end

local reply, moves, length, marks, fields, seen = {}, {}, {}, {}, {}, {}
for i = 3, 2 + 5 * tonumber(ARGV[2]), 5 do
  local dead_id, stream, place = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local found = not seen[dead_id] and redis.call('XRANGE', KEYS[4], dead_id, dead_id)[1]
  seen[dead_id] = true
  reply[#reply + 1] = 0
  if expect(KEYS[stream], 'stream') then length[stream] = length[stream] or redis.call('XLEN', KEYS[stream]) end
  local letter = found and by_name(found[2]) or {}
  if found and not is_sound(letter) then
    reply[#reply] = 2
  elseif found and letter['ns'] == ARGV[i + 3] and (letter['run'] or '') == ARGV[i + 4] then
    local field = letter['ns'] .. '\0' .. sole_id(letter)
    if marks[field] == nil then
      marks[field] = redis.call('HGET', KEYS[5], field) or ''
      fields[#fields + 1] = field
    end
    reply[#reply] = 2
    moves[#moves + 1] = {dead_id = dead_id, letter = letter, stream = stream, books = place, field = field, at = #reply}
    count_move(adds, moves[#moves])
  end
end
local counters = {}
for place, names in pairs(adds) do counters[place] = expect_counters(KEYS[place], names) end
if fault then return redis.error_reply(fault) end

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
  count_move(done, move)
  remark(move)
  reply[move.at] = 1
end
for place, names in pairs(done) do
  local written = {}
  for name, by in pairs(names) do
    written[#written + 1] = name
    written[#written + 1] = string.format('%.0f', counters[place][name] + by)
  end
  redis.call('HSET', KEYS[place], unpack(written))
end
if clock then redis.call('HSET', KEYS[1], 'clock', clock) end
return reply
