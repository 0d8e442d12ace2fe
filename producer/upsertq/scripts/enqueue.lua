-- Append entries to one shard's stream and count them, once each however often it is called with them.
-- KEYS: 1 stream, 2 books, 3 ledger of the producer, 4 books of the run (absent when there is no run)
-- ARGV: 1 most pending records (0: no limit), 2 most pending bytes (0: no limit), 3 ledger's life in ms,
--       4 number of entries; then for each: namespace, first ordinal, last ordinal, records, bytes,
--       number of stream fields and values f, f fields and values
-- Returns: {entries taken (in order, those enqueued before included), pending records, pending bytes}
-- A limit never refuses an entry to an empty shard, so that a small limit cannot stop a queue for ever.
-- An entry of which only the beginning was enqueued before (a successor packed otherwise) is enqueued whole: better
-- twice than never.
-- The first write is XADD: when the server is out of memory it fails and nothing has happened.
-- A ledger that is no number counts as empty: better twice than never.
local most_records, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local all_records, all_bytes, at = 0, 0, 5
for _ = 1, tonumber(ARGV[4]) do
  all_records, all_bytes = all_records + tonumber(ARGV[at + 3]), all_bytes + tonumber(ARGV[at + 4])
  at = at + 6 + tonumber(ARGV[at + 5])
end
expect(KEYS[1], 'stream')
expect(KEYS[3], 'hash')
local counters = {}
for i = 2, #KEYS do
  if i ~= 3 then
    counters[i] = expect_counters(KEYS[i], {enqueued = all_records, pending = all_records, bytes = all_bytes})
  end
end
if fault then return redis.error_reply(fault) end
local pending, bytes = counters[2].pending, counters[2].bytes
local taken = 0
at = 5
local added, added_bytes = 0, 0
for _ = 1, tonumber(ARGV[4]) do
  local namespace, first, last = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local records, size, fields = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local known = whole(redis.call('HGET', KEYS[3], namespace) or '-1') or -1
  if known < last then
    local full = pending > 0 and ((most_records > 0 and pending + records > most_records)
      or (most_bytes > 0 and bytes + size > most_bytes))
    if full then break end
    local reply = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, at + 6, at + 5 + fields))
    if type(reply) == 'table' and reply.err then
      if added > 0 then break end -- it fails as the first of the next call
      expect_stream(KEYS[1]) -- not before: it reads an entry whole
      return fault and redis.error_reply(fault) or reply
    end
    redis.call('HSET', KEYS[3], namespace, last)
    pending, bytes = pending + records, bytes + size
    added, added_bytes = added + records, added_bytes + size
  end
  taken = taken + 1
  at = at + 6 + fields
end
if added > 0 then
  for i = 2, #KEYS do
    if i ~= 3 then
      local found = counters[i]
      -- one call for what HINCRBY takes three for
      redis.call('HSET', KEYS[i], 'enqueued', string.format('%.0f', found.enqueued + added),
        'pending', string.format('%.0f', found.pending + added),
        'bytes', string.format('%.0f', found.bytes + added_bytes))
    end
  end
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
end
return {taken, pending, bytes}
