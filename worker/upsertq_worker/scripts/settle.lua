-- Settle entries of one shard: take them out of their streams and put their records into the books, all at once.
-- KEYS: 1 lease, 2 books, 3 lanes, 4 dead letters, 5 marks of dead ids, then the streams of the lanes and the books of
--       the runs that occur
-- ARGV: 1 incarnation, 2 'epoch:name' of the lease, 3 entries settled here that the holder was told of (0: none), 4 time
--       in ms (0: not told), 5 number of entries; then for each:
--       stream id, place of its stream among KEYS, namespace, place of its run's books (0: no run), run or '', records,
--       bytes, acked, superseded, sequence ('ms-n', of a replayed one 'ms-n-row'), number of dead letters, number of
--       figures; then for each dead letter: row, sequence, reason, number of stream fields and values f, f fields and
--       values; then for each figure: place of the books among KEYS, name, value (added; of a name that begins with
--       'lsn:' the greatest is kept). At the end may follow: 'ids' and for each entry its ids as JSON (else an entry is
--       read whole where there are marks); 'also' and for other runs place of its books among KEYS, run
-- Returns: {1, entries settled now, clock, entries ever settled here, namespaces of these streams that are empty now...}
--       {0, the lease's value or ''} when the lease is not ours, or when the server has lost settlements that its holder
--       was told of, as in a failover: what it has read is not all that is pending before what it would settle
--       {2, run...} when letters of other runs would be superseded: call again with these after 'also'
--       {-1, incarnation found or ''} for another incarnation
--       or the error DAMAGED, which names what cannot be read; in all cases but the first nothing was done
-- Only what XDEL really removes is counted, so a call that is repeated counts nothing twice. Everything that can fail
-- is read and checked before the first write, which is XDEL of nothing: after it the other commands work even when the
-- server is out of memory.
--
-- In all books the counters 'reason:...' add up to 'dead': whatever takes a letter away takes it from its reason.
--
-- A mark (namespace NUL id -> 'D,sequence,letter's stream id,run R,sequence A,sequence') names the dead letters of an
-- id, its replayed ones that are not settled, and the newest version acknowledged since these were replayed. Whatever
-- is acknowledged turns older letters into superseded ones, and leaves word for older ones that are being replayed.
for i, kind in ipairs({'string', 'hash', 'set', 'stream', 'hash'}) do expect(KEYS[i], kind) end
if fault then return redis.error_reply(fault) end
local found = redis.call('HGET', KEYS[2], 'incarnation')
if found ~= ARGV[1] then return {-1, found or ''} end
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[2] then return {0, current or ''} end

local most_lanes = 1000 -- of which the books keep an LSN: they must not grow with the number of namespaces
local standard = {'pending', 'bytes', 'acked', 'superseded', 'dead', 'settled_at'}

-- the books: the names that may change are read once, changed here, and written once

local names, values, changed, length = {}, {}, {}, {}

local function want(place, name)
  if not names[place] then
    names[place], values[place], changed[place] = {}, {}, {}
    for _, one in ipairs(standard) do want(place, one) end
  end
  if values[place][name] == nil then
    values[place][name] = false
    names[place][#names[place] + 1] = name
  end
end

local function is_lsn(name) return string.sub(name, 1, 4) == 'lsn:' end

local function read_books(place)
  local most = 1000 -- fields of one call: Lua unpacks no more than 8,000 values
  for from = 1, #names[place], most do
    local to = math.min(from + most - 1, #names[place])
    local told = redis.call('HMGET', KEYS[place], unpack(names[place], from, to))
    for i = from, to do
      local name, value = names[place][i], told[i - from + 1]
      if is_lsn(name) then
        if value and not (string.match(value, '^%d+$') and #value <= 40) then no_counter(KEYS[place], name) end
        values[place][name] = value
        length[place] = length[place] or redis.call('HLEN', KEYS[place])
      else
        values[place][name] = whole(value)
        if not values[place][name] then no_counter(KEYS[place], name) end
      end
    end
  end
end

local function count(place, name, by)
  if by == 0 then return end
  values[place][name] = values[place][name] + by
  changed[place][name] = true
end

local function keep_greatest(place, name, value)
  local known = values[place][name]
  -- compared as text of digits: they may have more than a number here can tell apart
  if known and (#known > #value or (#known == #value and known >= value)) then return end
  if not known then
    if length[place] >= most_lanes then return end
    length[place] = length[place] + 1
  end
  values[place][name], changed[place][name] = value, true
end

local function write_books(place)
  local fields = {}
  for name in pairs(changed[place]) do
    local value = values[place][name]
    fields[#fields + 1] = name
    fields[#fields + 1] = type(value) == 'number' and string.format('%.0f', value) or value
    if #fields >= 2000 then
      redis.call('HSET', KEYS[place], unpack(fields))
      fields = {}
    end
  end
  if #fields > 0 then redis.call('HSET', KEYS[place], unpack(fields)) end
end

-- what is asked for

want(2, 'settles')
local entries, place_of, at = {}, {}, 6
for i = 1, tonumber(ARGV[5]) do
  local letters = tonumber(ARGV[at + 10])
  local entry = {at = at, id = ARGV[at], stream = tonumber(ARGV[at + 1]), letters = letters}
  entry.books = tonumber(ARGV[at + 3])
  entries[i] = entry
  if entry.books > 0 then place_of[ARGV[at + 4]] = entry.books end
  local figures = tonumber(ARGV[at + 11])
  at = at + 12
  for _ = 1, letters do
    want(2, 'reason:' .. ARGV[at + 2])
    if entry.books > 0 then want(entry.books, 'reason:' .. ARGV[at + 2]) end
    at = at + 4 + tonumber(ARGV[at + 3])
  end
  entry.figures, entry.figures_end = at, at + 3 * figures
  at = entry.figures_end
  want(2, 'pending')
  if entry.books > 0 then want(entry.books, 'pending') end
  for k = entry.figures, at - 1, 3 do want(tonumber(ARGV[k]), ARGV[k + 1]) end
end
if ARGV[at] == 'ids' then
  for i, entry in ipairs(entries) do entry.ids = ARGV[at + i] end
  at = at + 1 + #entries
end
if ARGV[at] == 'also' then
  for i = at + 1, #ARGV, 2 do place_of[ARGV[i + 1]] = tonumber(ARGV[i]) end
end

-- what becomes of letters and marks

local function place_in_order(sequence)
  local ms, n, row = string.match(sequence, '^(%d+)-(%d+)-?(%d*)$')
  return {tonumber(ms), tonumber(n), tonumber(row) or 0}
end

local function older(one, other)
  local a, b = place_in_order(one), place_in_order(other)
  for i = 1, 3 do
    if a[i] ~= b[i] then return a[i] < b[i] end
  end
  return false
end

local stored = redis.call('HLEN', KEYS[5]) -- ids that have marks
local all_read = stored <= 50 * #entries -- fewer than the entries have ids: they are read at once
local marks, touched = {}, {} -- words by field, as they are to be; fields in the order of their first change
local marked = {} -- by namespace, the field of each id that has marks
local new_letters, superseded, unknown, missing = {}, {}, {}, {}

local function read_mark(field, text)
  local words, namespace, id = {}, string.match(field, '^([^%z]*)%z(.*)$')
  if not namespace then return damaged(KEYS[5], 'holds a field that is no mark: HDEL ' .. printable(field)) end
  for kind, sequence, rest in string.gmatch(text, '(%u),([%d%-]+)(%S*)') do
    if not string.match(sequence, '^%d+%-%d+%-?%d*$') then
      return damaged(KEYS[5], 'holds a mark that cannot be read: HDEL ' .. printable(field))
    end
    words[#words + 1] = {kind = kind, sequence = sequence, rest = rest, dead_id = string.match(rest, '^,([%d%-]+),')}
  end
  marked[namespace] = marked[namespace] or {}
  marks[field], marked[namespace][id] = words, field
end

local function read_marks_of(namespace, ids)
  local fields = {}
  for i, id in ipairs(ids) do fields[i] = namespace .. '\0' .. id end
  local told = redis.call('HMGET', KEYS[5], unpack(fields))
  for i, field in ipairs(fields) do
    if told[i] and not marks[field] then read_mark(field, told[i]) end
  end
end

if all_read and stored > 0 then
  local told = redis.call('HGETALL', KEYS[5])
  for i = 1, #told, 2 do read_mark(told[i], told[i + 1]) end
end

local function supersede(word)
  if word.letter then -- of this very call: it is never written
    word.letter.superseded = true
    return
  end
  local letter = word.dead_id and redis.call('XRANGE', KEYS[4], word.dead_id, word.dead_id)[1]
  if not letter then return end
  local run, reason = '', nil
  for i = 1, #letter[2], 2 do
    if letter[2][i] == 'run' then run = letter[2][i + 1] end
    if letter[2][i] == 'reason' then reason = letter[2][i + 1] end
  end
  if run ~= '' and not place_of[run] and not unknown[run] then
    unknown[run] = true
    missing[#missing + 1] = run
  end
  for _, place in ipairs({2, place_of[run]}) do
    want(place, 'dead')
    if reason then want(place, 'reason:' .. reason) end
  end
  superseded[#superseded + 1] = {dead_id = word.dead_id, books = place_of[run], reason = reason}
end

local function update_mark(field, sequence, replayed, letter)
  local words = marks[field]
  if not letter and (not words or #words == 0) then return end
  local kept, replaying, acked = {}, false, nil
  for _, word in ipairs(words or {}) do
    if word.kind == 'A' then
      if not acked or older(acked, word.sequence) then acked = word.sequence end
    elseif word.kind == 'R' then
      if not (replayed and word.sequence == sequence) then
        kept[#kept + 1] = word
        replaying = true
      end
    elseif not letter and older(word.sequence, sequence) then
      supersede(word)
    else
      kept[#kept + 1] = word
    end
  end
  if letter then kept[#kept + 1] = {kind = 'D', sequence = sequence, letter = letter} end
  if not letter and (not acked or older(acked, sequence)) then acked = sequence end
  if replaying and acked then kept[#kept + 1] = {kind = 'A', sequence = acked} end
  if not touched[field] then
    touched[field] = true
    touched[#touched + 1] = field
  end
  marks[field] = kept
end

local function look_at(entry)
  local sound, ids = pcall(cjson.decode, entry.ids)
  if not sound or type(ids) ~= 'table' then return damaged(KEYS[entry.stream], 'has no ids in entry ' .. entry.id) end
  local namespace, sequence = ARGV[entry.at + 2], ARGV[entry.at + 9]
  local replayed = string.match(sequence, '^%d+%-%d+%-%d+$') ~= nil
  if not all_read then read_marks_of(namespace, ids) end
  marked[namespace] = marked[namespace] or {}
  local head, dead, known = entry.at + 12, {}, marked[namespace]
  for _ = 1, entry.letters do
    local row, fields = tonumber(ARGV[head]), tonumber(ARGV[head + 3])
    local id = ids[row + 1]
    if not id then return damaged(KEYS[entry.stream], 'has no row ' .. row .. ' in entry ' .. entry.id) end
    local letter = {at = head + 4, to = head + 3 + fields, sequence = ARGV[head + 1], reason = ARGV[head + 2],
      run = ARGV[entry.at + 4], books = entry.books}
    new_letters[#new_letters + 1] = letter
    dead[row + 1] = true
    known[id] = namespace .. '\0' .. id
    update_mark(known[id], letter.sequence, replayed, letter)
    head = head + 4 + fields
  end
  for row, id in ipairs(ids) do
    local field = known[id]
    if field and not dead[row] then
      update_mark(field, replayed and sequence or (sequence .. '-' .. (row - 1)), replayed, nil)
    end
  end
end

for _, entry in ipairs(entries) do expect(KEYS[entry.stream], 'stream') end
for place in pairs(names) do expect(KEYS[place], 'hash') end
if fault then return redis.error_reply(fault) end
local left, streams, seen = {}, {}, {}
for _, entry in ipairs(entries) do
  if not left[entry.stream] then
    left[entry.stream] = redis.call('XLEN', KEYS[entry.stream])
    streams[#streams + 1] = {place = entry.stream, namespace = ARGV[entry.at + 2]}
  end
  local name = entry.stream .. ' ' .. entry.id
  local concerned = entry.letters > 0 or marked[ARGV[entry.at + 2]] or not all_read
  if seen[name] then
    entry.gone = true
  elseif concerned and (entry.letters > 0 or not entry.ids) then
    local there = redis.call('XRANGE', KEYS[entry.stream], entry.id, entry.id)[1]
    entry.gone = not there
    for i = 1, there and #there[2] or 0, 2 do
      if there[2][i] == 'ids' then entry.ids = there[2][i + 1] end
    end
  end
  seen[name] = true
  if concerned and entry.ids and not entry.gone then look_at(entry) end
end
if #missing > 0 and not fault then return {2, unpack(missing)} end
for place in pairs(names) do expect(KEYS[place], 'hash') end
if fault then return redis.error_reply(fault) end
for place in pairs(names) do read_books(place) end
local clock = redis.call('HGET', KEYS[2], 'clock')
if fault then return redis.error_reply(fault) end
if values[2]['settles'] < tonumber(ARGV[3]) then return {0, current} end

-- from here on nothing fails

redis.call('XDEL', KEYS[4], '0-1')
for _, letter in ipairs(new_letters) do
  if not letter.superseded then
    letter.dead_id = redis.call('XADD', KEYS[4], '*', unpack(ARGV, letter.at, letter.to))
  end
end
local settled, time = 0, tonumber(ARGV[4])
for _, entry in ipairs(entries) do
  if not entry.gone and redis.call('XDEL', KEYS[entry.stream], entry.id) == 1 then
    settled = settled + 1
    left[entry.stream] = left[entry.stream] - 1
    at = entry.at
    local records, bytes = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
    local acked, stale = tonumber(ARGV[at + 7]), tonumber(ARGV[at + 8])
    local place = 2
    repeat
      count(place, 'pending', -records)
      count(place, 'bytes', -bytes)
      count(place, 'acked', acked)
      count(place, 'superseded', stale)
      if values[place]['settled_at'] < time then
        values[place]['settled_at'], changed[place]['settled_at'] = time, true
      end
      place = place == 2 and entry.books or 0
    until place == 0
    for k = entry.figures, entry.figures_end - 1, 3 do
      local books, name = tonumber(ARGV[k]), ARGV[k + 1]
      if is_lsn(name) then keep_greatest(books, name, ARGV[k + 2]) else count(books, name, tonumber(ARGV[k + 2])) end
    end
  end
end
for _, letter in ipairs(new_letters) do
  for _, place in ipairs(letter.books > 0 and {2, letter.books} or {2}) do
    count(place, letter.superseded and 'superseded' or 'dead', 1)
    if not letter.superseded then count(place, 'reason:' .. letter.reason, 1) end
  end
end
for _, letter in ipairs(superseded) do
  redis.call('XDEL', KEYS[4], letter.dead_id)
  for _, place in ipairs({2, letter.books}) do
    count(place, 'dead', -1)
    count(place, 'superseded', 1)
    if letter.reason then count(place, 'reason:' .. letter.reason, -1) end
  end
end
for _, field in ipairs(touched) do
  local words = {}
  for i, word in ipairs(marks[field]) do
    words[i] = word.kind .. ',' .. word.sequence
    if word.kind == 'D' then
      local letter = word.letter
      words[i] = words[i] .. (letter and ',' .. letter.dead_id .. ',' .. letter.run or word.rest)
    end
  end
  if #words > 0 then
    redis.call('HSET', KEYS[5], field, table.concat(words, ' '))
  else
    redis.call('HDEL', KEYS[5], field)
  end
end
count(2, 'settles', settled)
for place in pairs(names) do write_books(place) end
local reply = {1, settled, clock or '0-0', values[2]['settles']}
for _, stream in ipairs(streams) do
  if left[stream.place] == 0 then
    redis.call('DEL', KEYS[stream.place])
    redis.call('SREM', KEYS[3], stream.namespace)
    reply[#reply + 1] = stream.namespace
  end
end
return reply
