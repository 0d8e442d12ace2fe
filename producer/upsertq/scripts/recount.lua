-- Recount a page of one shard's stream from the entries themselves, and one of its dead letters, and read the books at
-- the same instant.
-- KEYS: 1 stream, 2 books, 3 stream of dead letters, then any number of books of runs
-- ARGV: 1 first stream id of the page (as XRANGE takes it), 2 most entries (0: none), 3 and 4 the same of dead letters,
--       then names of counters
-- Returns: {entries read, last id or '', records, bytes, {run, its records, its bytes, run, ...},
--           dead letters read, last id or '', {run, its dead letters, run, ...}, {run or '', reason, letters, run, ...},
--           entries in the stream, dead letters, {counters of the shard}, {counters of the first run asked for}, ...}
-- Entries are read by few, since each may be a megabyte and the server copies them.
expect(KEYS[1], 'stream')
expect(KEYS[3], 'stream')
for i = 2, #KEYS do
  if i ~= 3 then expect(KEYS[i], 'hash') end
end
if fault then return redis.error_reply(fault) end
local records, bytes, read, runs, order, last = 0, 0, 0, {}, {}, ''
local payload = {ids = true, values = true, sparse = true, meta = true}
local from, left = ARGV[1], tonumber(ARGV[2])
while left > 0 do
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', math.min(left, 20))
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    last = entry[1]
    local fields, n, size, run = entry[2], 0, 0, ''
    for i = 1, #fields, 2 do
      if payload[fields[i]] then size = size + #fields[i + 1] end
      if fields[i] == 'n' then n = whole(fields[i + 1]) or 0 end
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
  read, left = read + #entries, left - #entries
  from = '(' .. last
end
local by_run = {}
for _, run in ipairs(order) do
  by_run[#by_run + 1] = run
  by_run[#by_run + 1] = runs[run][1]
  by_run[#by_run + 1] = runs[run][2]
end
local dead, deaths, reasons, last_dead = 0, {}, {}, ''
local tally, of_reason = {}, {}
from, left = ARGV[3], tonumber(ARGV[4])
while left > 0 do
  local letters = redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', math.min(left, 20))
  if #letters == 0 then break end
  for _, letter in ipairs(letters) do
    last_dead = letter[1]
    local run, reason = '', nil
    for i = 1, #letter[2], 2 do
      if letter[2][i] == 'run' then run = letter[2][i + 1] end
      if letter[2][i] == 'reason' then reason = letter[2][i + 1] end
    end
    if run ~= '' then tally[run] = (tally[run] or 0) + 1 end
    if reason then
      of_reason[run] = of_reason[run] or {}
      of_reason[run][reason] = (of_reason[run][reason] or 0) + 1
    end
  end
  dead, left = dead + #letters, left - #letters
  from = '(' .. last_dead
end
for run, n in pairs(tally) do
  deaths[#deaths + 1] = run
  deaths[#deaths + 1] = n
end
for run, counts in pairs(of_reason) do
  for reason, n in pairs(counts) do
    for _, value in ipairs({run, reason, n}) do reasons[#reasons + 1] = value end
  end
end
local names = {}
for i = 5, #ARGV do names[#names + 1] = ARGV[i] end
local reply = {read, last, records, bytes, by_run, dead, last_dead, deaths, reasons}
reply[#reply + 1] = redis.call('XLEN', KEYS[1])
reply[#reply + 1] = redis.call('XLEN', KEYS[3])
reply[#reply + 1] = redis.call('HMGET', KEYS[2], unpack(names))
for i = 4, #KEYS do reply[#reply + 1] = redis.call('HMGET', KEYS[i], unpack(names)) end
return reply
