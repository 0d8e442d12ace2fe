-- Settle entries of one shard: take them out of the queue and put their records into the books, all at once.
-- KEYS: 1 stream, 2 books, 3 lease, 4 dead letters, 5 marks of dead ids, 6 marks of suspects (see mark.lua),
--       7... books of the runs that occur
-- ARGV: 1 consumer group, 2 'epoch:name' of the lease, 3 time in ms (0: not told), 4 number of entries; then for each:
--       stream id, place of its run among KEYS (0: no run), run or '', records, bytes, acked, superseded, sequence
--       ('ms-n', of a replayed one 'ms-n-row'), number of dead letters, number of figures; then for each dead letter: row,
--       sequence, reason, number of stream fields and values f, f fields and values; then for each figure: place of the
--       books among KEYS, name, value (added; of a name that begins with 'lsn:' the greatest is kept)
-- Returns: {1, entries settled now}, or {0, the lease's value or ''} when the lease is not ours: nothing was done
-- Only what XACK really removes is counted, so a call that is repeated counts nothing twice. XACK comes first: after
-- it the other commands work even when the server is out of memory. Every key that the caller names is looked at before,
-- so that one of a foreign type fails while nothing has happened.
--
-- In all books the counters 'reason:...' add up to 'dead': whatever takes a letter away takes it from its reason.
--
-- A mark (namespace NUL id -> 'D,sequence,letter's stream id,run R,sequence A,sequence') names the dead letters of an id,
-- its replayed ones that are not settled, and the newest version acknowledged since these were replayed. Whatever
-- is acknowledged turns older letters into superseded ones, and leaves word for older ones that are being replayed.
local current = redis.call('GET', KEYS[3])
if current ~= ARGV[2] then return {0, current or ''} end
redis.call('XLEN', KEYS[4])
local marked = redis.call('HLEN', KEYS[5]) > 0
local suspects = redis.call('HLEN', KEYS[6]) > 0
local settled_at = {}
for i = 2, #KEYS do
  if i == 2 or i > 6 then settled_at[i] = tonumber(redis.call('HGET', KEYS[i], 'settled_at') or 0) end
end
local most_lanes = 1000 -- of which the books keep an LSN: they must not grow with the number of namespaces

local function count(name, by, run, place)
  if by == 0 then return end
  redis.call('HINCRBY', KEYS[2], name, by)
  if run == '' then return end
  -- a superseded letter may be of a run that this call does not name: its books are of the same slot
  redis.call('HINCRBY', place > 0 and KEYS[place] or (string.sub(KEYS[2], 1, -6) .. 'run:' .. run), name, by)
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

local function add_figure(books, name, value)
  if string.sub(name, 1, 4) ~= 'lsn:' then
    redis.call('HINCRBY', books, name, value)
    return
  end
  local known = redis.call('HGET', books, name)
  -- compared as text of digits: they may have more than a number here can tell apart
  if known and (#known > #value or (#known == #value and known >= value)) then return end
  if known or redis.call('HLEN', books) < most_lanes then redis.call('HSET', books, name, value) end
end

local function supersede(dead_id, run)
  local letter = redis.call('XRANGE', KEYS[4], dead_id, dead_id)[1]
  if not letter then return end
  redis.call('XDEL', KEYS[4], dead_id)
  count('dead', -1, run, 0)
  count('superseded', 1, run, 0)
  for i = 1, #letter[2], 2 do
    if letter[2][i] == 'reason' then count('reason:' .. letter[2][i + 1], -1, run, 0) end
  end
end

local function update_mark(field, sequence, replayed, letter)
  local mark = redis.call('HGET', KEYS[5], field)
  if not mark and not letter then return end
  local kept, replaying, acked = {}, false, nil
  for kind, its, rest in string.gmatch(mark or '', '(%u),([%d%-]+)(%S*)') do
    if kind == 'A' then
      if not acked or older(acked, its) then acked = its end
    elseif kind == 'R' then
      if not (replayed and its == sequence) then
        kept[#kept + 1] = 'R,' .. its
        replaying = true
      end
    elseif not letter and older(its, sequence) then
      local dead_id, run = string.match(rest, '^,([%d%-]+),(.*)$')
      supersede(dead_id, run)
    else
      kept[#kept + 1] = 'D,' .. its .. rest
    end
  end
  if letter then kept[#kept + 1] = 'D,' .. sequence .. ',' .. letter end
  if not letter and (not acked or older(acked, sequence)) then acked = sequence end
  if replaying and acked then kept[#kept + 1] = 'A,' .. acked end
  if #kept > 0 then
    redis.call('HSET', KEYS[5], field, table.concat(kept, ' '))
  else
    redis.call('HDEL', KEYS[5], field)
  end
end

local settled, at = 0, 5
for _ = 1, tonumber(ARGV[4]) do
  local id, place, run, sequence = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 7]
  local letters, figures = tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9])
  local found = (marked or letters > 0) and redis.call('XRANGE', KEYS[1], id, id)[1]
  local ours = redis.call('XACK', KEYS[1], ARGV[1], id) == 1
  if ours then
    redis.call('XDEL', KEYS[1], id)
    if suspects then redis.call('HDEL', KEYS[6], id) end
    settled = settled + 1
    count('pending', -tonumber(ARGV[at + 3]), run, place)
    count('bytes', -tonumber(ARGV[at + 4]), run, place)
    count('acked', tonumber(ARGV[at + 5]), run, place)
    count('superseded', tonumber(ARGV[at + 6]), run, place)
    count('dead', letters, run, place)
    for _, books in ipairs(place > 0 and {2, place} or {2}) do
      if settled_at[books] < tonumber(ARGV[3]) then
        redis.call('HSET', KEYS[books], 'settled_at', ARGV[3])
        settled_at[books] = tonumber(ARGV[3])
      end
    end
  end
  local entry = {}
  if found then
    for i = 1, #found[2], 2 do entry[found[2][i]] = found[2][i + 1] end
  end
  local replayed = entry['seq'] ~= nil
  local head = at + 10
  local dead = {}
  for _ = 1, letters do
    local row, its, fields = tonumber(ARGV[head]), ARGV[head + 1], tonumber(ARGV[head + 3])
    if ours then
      dead[row] = true
      local dead_id = redis.call('XADD', KEYS[4], '*', unpack(ARGV, head + 4, head + 3 + fields))
      local ids = cjson.decode(entry['ids'])
      update_mark(entry['ns'] .. '\0' .. ids[row + 1], its, replayed, dead_id .. ',' .. run)
      count('reason:' .. ARGV[head + 2], 1, run, place)
      marked = true
    end
    head = head + 4 + fields
  end
  if ours and marked and entry['ids'] then
    for row, name in ipairs(cjson.decode(entry['ids'])) do
      if not dead[row - 1] then
        local its = replayed and sequence or (sequence .. '-' .. (row - 1))
        update_mark(entry['ns'] .. '\0' .. name, its, replayed, nil)
      end
    end
  end
  if ours then
    for i = head, head + 3 * (figures - 1), 3 do add_figure(KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2]) end
  end
  at = head + 3 * figures
end
return {1, settled}
