-- Append entries to the streams of one shard's lanes and count them, once each however often it is called with them.
-- KEYS: 1 books, 2 lanes, 3 bell, 4 ledger of the producer, then the streams of the lanes and the books of the run
-- ARGV: 1 incarnation, 2 most pending records (0: no limit), 3 most pending bytes (0: no limit), 4 ledger's life in ms,
--       5 place of the run's books among KEYS (0: no run), 6 number of entries; then for each: place of its stream,
--       namespace, first ordinal, last ordinal, records, bytes, number of stream fields and values f, f fields and
--       values
-- Returns: {entries taken (in order, those enqueued before included), pending records, pending bytes, clock};
--       {-1, incarnation found or ''} for another incarnation: nothing was done; the error DAMAGED names a field that
--       is no counter: nothing was done
-- Ids are made here, from the server's time and the shard's clock: they increase over all streams of the shard, also
-- when the time goes back or a stream was deleted and made again.
-- A limit never refuses an entry to an empty shard, so that a small limit cannot stop a queue for ever.
-- An entry of which only the beginning was enqueued before (a successor packed otherwise) is enqueued whole: better
-- twice than never.
-- The first write is XADD: when the server is out of memory it fails and nothing has happened. All else that can fail
-- is read before. Where a later XADD fails (a stream that was tampered with has a greater id) the call ends before that
-- entry, which fails as the first of the next call.
local unpack = unpack or table.unpack
local names = {'incarnation', 'clock', 'enqueued', 'pending', 'bytes'}
local books = redis.call('HMGET', KEYS[1], unpack(names))
if books[1] ~= ARGV[1] then return {-1, books[1] or ''} end

local function damaged(key, field, value)
  local told = string.gsub(string.sub(field, 1, 200) .. ' ' .. string.sub(value, 1, 40), '[^%w%p ]', '?')
  return redis.error_reply('DAMAGED ' .. key .. ' ' .. told)
end

local function number(value) -- nil unless it is whole and small enough to be exact
  value = value or '0'
  return #value < 17 and string.match(value, '^%-?%d+$') and #string.match(value, '%d+') < 16 and tonumber(value)
end

local clock_ms, clock_n = string.match(books[2] or '0-0', '^(%d+)%-(%d+)$')
clock_ms, clock_n = number(clock_ms or 'x'), number(clock_n or 'x')
if not clock_ms or not clock_n then return damaged(KEYS[1], 'clock', books[2]) end
for i = 3, 5 do
  if not number(books[i]) then return damaged(KEYS[1], names[i], books[i]) end
end
local enqueued, pending, bytes = number(books[3]), number(books[4]), number(books[5])
redis.call('SCARD', KEYS[2])
redis.call('XLEN', KEYS[3])
local run = tonumber(ARGV[5])
local run_books = {}
if run > 0 then
  run_books = redis.call('HMGET', KEYS[run], names[3], names[4], names[5])
  for i = 1, 3 do
    if not number(run_books[i]) then return damaged(KEYS[run], names[i + 2], run_books[i]) end
  end
end

local entries, at = tonumber(ARGV[6]), 7
local spaces, known, length = {}, {}, {}
for _ = 1, entries do
  local place, namespace = tonumber(ARGV[at]), ARGV[at + 1]
  if known[namespace] == nil then
    known[namespace] = -1
    spaces[#spaces + 1] = namespace
  end
  if not length[place] then length[place] = redis.call('XLEN', KEYS[place]) end
  at = at + 7 + tonumber(ARGV[at + 6])
end
local ordinals = redis.call('HMGET', KEYS[4], unpack(spaces))
for i, namespace in ipairs(spaces) do
  if ordinals[i] then
    if not number(ordinals[i]) then return damaged(KEYS[4], namespace, ordinals[i]) end
    known[namespace] = number(ordinals[i])
  end
end

local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local most_records, most_bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
local taken, added, added_bytes, clock = 0, 0, 0, books[2] or '0-0'
at = 7
for _ = 1, entries do
  local place, namespace, last = tonumber(ARGV[at]), ARGV[at + 1], tonumber(ARGV[at + 3])
  local records, size, fields = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  if known[namespace] < last then
    local waiting, waiting_bytes = pending + added, bytes + added_bytes
    if waiting > 0 and ((most_records > 0 and waiting + records > most_records)
      or (most_bytes > 0 and waiting_bytes + size > most_bytes)) then break end
    local ms, n = clock_ms, clock_n + 1
    if now_ms > clock_ms then ms, n = now_ms, 0 end
    local id = string.format('%.0f-%.0f', ms, n)
    local call = added == 0 and redis.call or redis.pcall
    local reply = call('XADD', KEYS[place], id, unpack(ARGV, at + 7, at + 6 + fields))
    if type(reply) == 'table' and reply.err then break end
    clock_ms, clock_n, clock = ms, n, id
    if length[place] == 0 then
      redis.call('SADD', KEYS[2], namespace)
      local rung = redis.pcall('XADD', KEYS[3], 'MAXLEN', 100, id, 'ns', namespace)
      -- a bell that was tampered with has a greater id: it must ring all the same
      if type(rung) == 'table' and rung.err then redis.call('XADD', KEYS[3], 'MAXLEN', 100, '*', 'ns', namespace) end
      length[place] = 1
    end
    known[namespace] = last
    added, added_bytes = added + records, added_bytes + size
  end
  taken = taken + 1
  at = at + 7 + fields
end
if added > 0 then
  local ledger = {}
  for _, namespace in ipairs(spaces) do
    if known[namespace] >= 0 then
      ledger[#ledger + 1] = namespace
      ledger[#ledger + 1] = string.format('%.0f', known[namespace])
    end
  end
  redis.call('HSET', KEYS[4], unpack(ledger))
  redis.call('PEXPIRE', KEYS[4], ARGV[4])
  redis.call('HSET', KEYS[1], 'clock', clock, 'enqueued', string.format('%.0f', enqueued + added),
    'pending', string.format('%.0f', pending + added), 'bytes', string.format('%.0f', bytes + added_bytes))
  if run > 0 then
    redis.call('HSET', KEYS[run], 'enqueued', string.format('%.0f', number(run_books[1]) + added),
      'pending', string.format('%.0f', number(run_books[2]) + added),
      'bytes', string.format('%.0f', number(run_books[3]) + added_bytes), 'added_at', string.format('%.0f', now_ms))
  end
end
return {taken, pending + added, bytes + added_bytes, clock}
