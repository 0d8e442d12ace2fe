-- Recount a page of one shard's stream from the entries themselves.
-- KEYS: 1 stream
-- ARGV: 1 first stream id of the page (as XRANGE takes it), 2 most entries
-- Returns: {entries read, last id or '', records, bytes, run, its records, its bytes, run, ...}
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
local records, bytes, runs, order, last = 0, 0, {}, {}, ''
local payload = {ids = true, values = true, sparse = true, meta = true}
for _, entry in ipairs(entries) do
  last = entry[1]
  local fields, n, size, run = entry[2], 0, 0, ''
  for i = 1, #fields, 2 do
    if payload[fields[i]] then size = size + #fields[i + 1] end
    if fields[i] == 'n' then n = tonumber(fields[i + 1]) end
    if fields[i] == 'run' then run = fields[i + 1] end
  end
  records, bytes = records + n, bytes + size
  if run ~= '' then
    if not runs[run] then
      runs[run] = {0, 0}
      order[#order + 1] = run
    end
    runs[run][1], runs[run][2] = runs[run][1] + n, runs[run][2] + size
  end
end
local reply = {#entries, last, records, bytes}
for _, run in ipairs(order) do
  reply[#reply + 1] = run
  reply[#reply + 1] = runs[run][1]
  reply[#reply + 1] = runs[run][2]
end
return reply
