-- Settle entries of one shard: take them out of the queue and put their records into the books, all at once.
-- KEYS: 1 stream, 2 books, 3 lease, 4 dead letters, 5 marks of dead ids, 6 marks of suspects (see mark.lua),
--       7... books of the runs that occur
-- ARGV: 1 consumer group, 2 'epoch:name' of the lease, 3 time in ms (0: not told), 4 number of entries; then for each:
--       stream id, place of its run among KEYS (0: no run), run or '', records, bytes, acked, superseded, sequence
--       ('ms-n', of a replayed one 'ms-n-row'), number of dead letters, number of figures; then for each dead letter: row,
--       sequence, reason, number of stream fields and values f, f fields and values; then for each figure: place of the
--       books among KEYS, name, value (added; of a name that begins with 'lsn:' the greatest is kept)
-- Returns: {1, entries settled now}, or {0, the lease's value or ''} when the lease is not ours: nothing was done
-- An entry that is not pending any more is passed over, so a call that is repeated counts nothing twice.
--
-- First all is planned in memory, and looked at; then it is written: XDEL of nothing, after which the other commands work
-- even when the server is out of memory, the dead letters, and only then is anything taken away.
--
-- In all books the counters 'reason:...' add up to 'dead': whatever takes a letter away takes it from its reason.
--
-- A mark (namespace NUL id -> 'D,sequence,letter's stream id,run R,sequence A,sequence') names the dead letters of an id,
-- its replayed ones that are not settled, and the newest version acknowledged since these were replayed. Whatever
-- is acknowledged turns older letters into superseded ones, and leaves word for older ones that are being replayed.
expect(KEYS[3], 'string')
if fault then return redis.error_reply(fault) end
local current = redis.call('GET', KEYS[3])
if current ~= ARGV[2] then return {0, current or ''} end
expect(KEYS[1], 'stream')
expect_stream(KEYS[4])
expect(KEYS[5], 'hash')
for i = 2, #KEYS do
  if i == 2 or i > 6 then expect(KEYS[i], 'hash') end
end
if fault then return redis.error_reply(fault) end
local marked = redis.call('HLEN', KEYS[5]) > 0
local suspects = is_type(KEYS[6], 'hash') and redis.call('HLEN', KEYS[6]) > 0 -- a help, no condition
local most_lanes = 1000 -- of which the books keep an LSN: they must not grow with the number of namespaces

-- the plan
local adds, gone, letters, removed, marks, settled_at, figures = {}, {}, {}, {}, {}, {}, {}

local function add(books, name, by)
  adds[books] = adds[books] or {}
  adds[books][name] = (adds[books][name] or 0) + by
end

local function count(name, by, run)
  if by == 0 then return end
  add(KEYS[2], name, by)
  -- a superseded letter may be of a run that this call does not name: its books are of the same slot
  if run ~= '' then add(string.sub(KEYS[2], 1, -6) .. 'run:' .. run, name, by) end
end

local function place_of(sequence)
  local ms, n, row = string.match(sequence, '^(%d+)-(%d+)-?(%d*)$')
  return {tonumber(ms), tonumber(n), tonumber(row) or 0}
end

local function older(one, other)
  local a, b = place_of(one), place_of(other)
  for i = 1, 3 do
    if a[i] ~= b[i] then return a[i] < b[i] end
  end
  return false
end

local function words_of(field)
  if marks[field] then return marks[field] end
  local words = {}
  for text in string.gmatch(redis.call('HGET', KEYS[5], field) or '', '%S+') do
    local kind, its, rest = string.match(text, '^([DRA]),(%d+%-%d+%-?%d*)(.*)$')
    local dead_id, run = string.match(rest or '', '^,(%d+%-%d+),(.*)$')
    if not kind or (kind == 'D') ~= (dead_id ~= nil) or (kind ~= 'D' and rest ~= '') then
      damaged(KEYS[5], 'holds a mark that cannot be read, that of ' .. printable(field) .. ': HDEL it')
    else
      words[#words + 1] = {kind = kind, its = its, dead_id = dead_id, run = run}
    end
  end
  marks[field] = words
  return words
end

local function supersede(word)
  local reason
  if word.letter then
    -- it dies in this very call, and an older letter it would be: it is never written
    word.letter.superseded, reason = true, word.letter.reason
  else
    local letter = not removed[word.dead_id] and redis.call('XRANGE', KEYS[4], word.dead_id, word.dead_id)[1]
    if not letter then return end
    removed[word.dead_id], reason = true, by_name(letter[2])['reason']
  end
  count('dead', -1, word.run)
  count('superseded', 1, word.run)
  if reason then count('reason:' .. reason, -1, word.run) end
end

local function update_mark(field, sequence, replayed, letter)
  local words, kept, replaying, acked = words_of(field), {}, false, nil
  if #words == 0 and not letter then return end
  for _, word in ipairs(words) do
    if word.kind == 'A' then
      if not acked or older(acked, word.its) then acked = word.its end
    elseif word.kind == 'R' then
      if not (replayed and word.its == sequence) then
        kept[#kept + 1] = word
        replaying = true
      end
    elseif not letter and older(word.its, sequence) then
      supersede(word)
    else
      kept[#kept + 1] = word
    end
  end
  if letter then kept[#kept + 1] = {kind = 'D', its = sequence, letter = letter, run = letter.run} end
  if not letter and (not acked or older(acked, sequence)) then acked = sequence end
  if replaying and acked then kept[#kept + 1] = {kind = 'A', its = acked} end
  kept.changed = true
  marks[field] = kept
end

local function ids_of(entry)
  local read, ids = pcall(cjson.decode, entry['ids'])
  if read and type(ids) == 'table' and entry['ns'] then return ids end
  damaged(KEYS[1], 'holds an entry whose ids cannot be read: take it out with XDEL')
  return {}
end

local function is_pending(id)
  local told = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  return not told['err'] and #told > 0
end

local at, called = 5, {}
for _ = 1, tonumber(ARGV[4]) do
  local id, place, run, sequence = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 7]
  local dying, facts, head = tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9]), at + 10
  local ours = not called[id] and is_pending(id)
  called[id] = true
  if ours then
    gone[#gone + 1] = id
    count('pending', -tonumber(ARGV[at + 3]), run)
    count('bytes', -tonumber(ARGV[at + 4]), run)
    count('acked', tonumber(ARGV[at + 5]), run)
    count('superseded', tonumber(ARGV[at + 6]), run)
    count('dead', dying, run)
    for _, books in ipairs(place > 0 and {2, place} or {2}) do
      settled_at[books] = math.max(settled_at[books] or 0, tonumber(ARGV[3]))
    end
  end
  local found = ours and (marked or dying > 0) and redis.call('XRANGE', KEYS[1], id, id)[1]
  local entry = found and by_name(found[2]) or {}
  local replayed = entry['seq'] ~= nil
  local dead = {}
  for _ = 1, dying do
    local row, its, fields = tonumber(ARGV[head]), ARGV[head + 1], tonumber(ARGV[head + 3])
    if ours then
      dead[row] = true
      local letter = {fields = {unpack(ARGV, head + 4, head + 3 + fields)}, run = run, reason = ARGV[head + 2]}
      letters[#letters + 1] = letter
      local its_own = by_name(letter.fields)
      update_mark(its_own['ns'] .. '\0' .. sole_id(its_own), its, replayed, letter)
      count('reason:' .. letter.reason, 1, run)
      marked = true
    end
    head = head + 4 + fields
  end
  if ours and marked and entry['ids'] then
    for row, name in ipairs(ids_of(entry)) do
      if not dead[row - 1] then
        local its = replayed and sequence or (sequence .. '-' .. (row - 1))
        update_mark(entry['ns'] .. '\0' .. name, its, replayed, nil)
      end
    end
  end
  for i = head, head + 3 * (facts - 1), 3 do
    if ours then figures[#figures + 1] = {KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2]} end
  end
  at = head + 3 * facts
end
for books, names in pairs(adds) do expect_counters(books, names) end
if fault then return redis.error_reply(fault) end

-- the writing
local function text_of(word)
  if word.kind ~= 'D' then return word.kind .. ',' .. word.its end
  return 'D,' .. word.its .. ',' .. (word.dead_id or word.letter.dead_id) .. ',' .. word.run
end

-- figures are told for people: one that is none begins anew
local function add_figure(books, name, value)
  local known = redis.call('HGET', books, name)
  if string.sub(name, 1, 4) ~= 'lsn:' then
    known = whole(known)
    if known and known + tonumber(value) <= most_count then
      redis.call('HINCRBY', books, name, value)
    else
      redis.call('HSET', books, name, value)
    end
    return
  end
  -- compared as text of digits: they may have more than a number here can tell apart
  local sound = known and #known <= 19 and string.match(known, '^%d+$')
  if sound and (#known > #value or (#known == #value and known >= value)) then return end
  if known or redis.call('HLEN', books) < most_lanes then redis.call('HSET', books, name, value) end
end

redis.call('XDEL', KEYS[1], '0-1')
for _, letter in ipairs(letters) do
  if not letter.superseded then letter.dead_id = redis.call('XADD', KEYS[4], '*', unpack(letter.fields)) end
end
for field, words in pairs(marks) do
  if words.changed then
    local texts = {}
    for i, word in ipairs(words) do texts[i] = text_of(word) end
    if #texts > 0 then
      redis.call('HSET', KEYS[5], field, table.concat(texts, ' '))
    else
      redis.call('HDEL', KEYS[5], field)
    end
  end
end
for dead_id in pairs(removed) do redis.call('XDEL', KEYS[4], dead_id) end
for _, id in ipairs(gone) do
  redis.call('XACK', KEYS[1], ARGV[1], id)
  redis.call('XDEL', KEYS[1], id)
  if suspects then redis.call('HDEL', KEYS[6], id) end
end
for books, names in pairs(adds) do
  for name, by in pairs(names) do
    if by ~= 0 then redis.call('HINCRBY', books, name, by) end
  end
end
for i, time in pairs(settled_at) do
  local before = whole(redis.call('HGET', KEYS[i], 'settled_at'))
  if not before or before > 253402300799999 or before < time then redis.call('HSET', KEYS[i], 'settled_at', ARGV[3]) end
end
for _, figure in ipairs(figures) do add_figure(figure[1], figure[2], figure[3]) end
return {1, #gone}
