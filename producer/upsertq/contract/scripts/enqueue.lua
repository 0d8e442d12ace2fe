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
local run, entries = tonumber(ARGV[5]), tonumber(ARGV[6])
for i, kind in ipairs({'hash', 'set', 'stream', 'hash'}) do expect(KEYS[i], kind) end
for i = 5, #KEYS do expect(KEYS[i], i == run and 'hash' or 'stream') end
if fault then return redis.error_reply(fault) end
local books = redis.call('HMGET', KEYS[1], 'incarnation', 'clock')
if books[1] ~= ARGV[1] then return {-1, books[1] or ''} end
local clock_ms, clock_n = clock_of(KEYS[1], books[2])
local all_records, all_bytes, at = 0, 0, 7
for _ = 1, entries do
  all_records, all_bytes = all_records + tonumber(ARGV[at + 4]), all_bytes + tonumber(ARGV[at + 5])
  at = at + 7 + tonumber(ARGV[at + 6])
end
local adds = {enqueued = all_records, pending = all_records, bytes = all_bytes}
local counters = {expect_counters(KEYS[1], adds)}
if run > 0 then counters[2] = expect_counters(KEYS[run], adds) end
if fault then return redis.error_reply(fault) end
local pending, bytes = counters[1].pending, counters[1].bytes

at = 7
local spaces, known, length, entering = {}, {}, {}, {}
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
    -- what is no ordinal counts as none: better twice than never
    known[namespace] = whole(ordinals[i]) or -1
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
    -- also where the stream is there: the set of the lanes may have been lost
    local entered = not entering[place] and redis.call('SADD', KEYS[2], namespace) == 1
    entering[place] = true
    if entered or length[place] == 0 then
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
  for i, key in ipairs(run > 0 and {KEYS[1], KEYS[run]} or {KEYS[1]}) do
    local found = counters[i]
    redis.call('HSET', key, 'enqueued', string.format('%.0f', found.enqueued + added),
      'pending', string.format('%.0f', found.pending + added),
      'bytes', string.format('%.0f', found.bytes + added_bytes), unpack(i == 1 and {'clock', clock} or {}))
  end
end
return {taken, pending + added, bytes + added_bytes, clock}
