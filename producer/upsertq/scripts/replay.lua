-- Move dead letters of one shard to the tail of its stream, in the order given; each is in one place at any instant.
-- KEYS: 1 stream, 2 books, 3 stream of dead letters, 4 marks of dead ids, then the books of the runs that occur
-- ARGV: for each letter: its stream id, place of its run among KEYS (0: no run)
-- Returns: for each letter 1 when it was moved now, 0 when it was gone (superseded, discarded or replayed before), 2 when
--          it is damaged and stays: in the stream it would stop the shard
-- The first write is XADD: when the server is out of memory it fails and nothing has happened; after it nothing fails for
-- that reason.
expect_stream(KEYS[1])
expect(KEYS[3], 'stream')
expect(KEYS[4], 'hash')

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
  if string.find(text, '%c') or not is_utf8(text) then return false end
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

-- As `decode_letter` of `upsertq.letter` has it, for what a worker reads of it.
local function is_sound(letter)
  local id, dim = sole_id(letter), whole(letter['dim'])
  return letter['v'] == '1' and letter['op'] == 'upsert' and letter['n'] == '1' and id and is_strict(letter['ids'])
    and #id >= 1 and #id <= 512 and not string.find(id, '[%z\128-\255]')
    and letter['ns'] and #letter['ns'] <= 512 and not string.find(letter['ns'], '[%z\128-\255]')
    and letter['dim'] and is_number(letter['dim'], 20000) and #(letter['values'] or '') == 4 * dim
    and string.match(letter['seq'] or '', '^%d+%-%d+%-?%d*$') and #letter['seq'] <= 62
    and not string.find('-' .. letter['seq'], '%-0%d') and string.sub(letter['seq'], -1) ~= '-'
    and #(letter['run'] or '') <= 512 and not string.find(letter['run'] or '', '[%z\128-\255]')
    and is_number(letter['at'], 253402300799999) and is_number(letter['depth'], 999999)
    and is_column(letter['sparse'], is_sparse) and is_column(letter['meta'], function() return true end)
end

local letters, adds, state, seen = {}, {}, {}, {}

local function add(books, name, by)
  adds[books] = adds[books] or {}
  adds[books][name] = (adds[books][name] or 0) + by
end

for i = 1, fault and 0 or #ARGV, 2 do
  local found = not seen[ARGV[i]] and redis.call('XRANGE', KEYS[3], ARGV[i], ARGV[i])[1]
  local letter = found and by_name(found[2])
  seen[ARGV[i]] = true
  state[i] = not found and 0 or is_sound(letter) and 1 or 2
  if state[i] == 1 then
    local run, size = tonumber(ARGV[i + 1]), 0
    for _, name in ipairs(payload) do size = size + #(letter[name] or '') end
    letters[i] = letter
    for _, books in ipairs(run > 0 and {KEYS[2], KEYS[run]} or {KEYS[2]}) do
      add(books, 'dead', -1)
      add(books, 'pending', 1)
      add(books, 'bytes', size)
      if letter['reason'] then add(books, 'reason:' .. letter['reason'], -1) end
    end
  end
end
for books, names in pairs(adds) do expect_counters(books, names) end
if fault then return redis.error_reply(fault) end

local function remark(letter, dead_id)
  local field = letter['ns'] .. '\0' .. sole_id(letter)
  local tokens = {}
  for token in string.gmatch(redis.call('HGET', KEYS[4], field) or '', '%S+') do
    if string.match(token, '^D,[%d%-]+,([%d%-]+)') ~= dead_id then tokens[#tokens + 1] = token end
  end
  tokens[#tokens + 1] = 'R,' .. letter['seq']
  redis.call('HSET', KEYS[4], field, table.concat(tokens, ' '))
end

local function move(dead_id, letter)
  local entry = {}
  for _, name in ipairs(kept) do
    if letter[name] then
      entry[#entry + 1] = name
      entry[#entry + 1] = letter[name]
    end
  end
  redis.call('XADD', KEYS[1], '*', 'depth', tonumber(letter['depth'] or 0) + 1, unpack(entry))
  redis.call('XDEL', KEYS[3], dead_id)
  remark(letter, dead_id)
end

local moved = {}
for i = 1, #ARGV, 2 do
  if letters[i] then move(ARGV[i], letters[i]) end
  moved[#moved + 1] = state[i]
end
for books, names in pairs(adds) do
  for name, by in pairs(names) do redis.call('HINCRBY', books, name, by) end
end
return moved
