-- Recount entries of one shard from the streams of its lanes, and a page of its dead letters, and read the books at the
-- same instant.
-- KEYS: 1 books, 2 lanes, 3 dead letters, then the streams of lanes to recount, then any number of books of runs
-- ARGV: 1 incarnation, 2 number of streams, 3 first stream id in the first of them (as XRANGE takes it), 4 most entries
--       in all (0: none), 5 and 6 first id and most of dead letters, then names of counters
-- Returns: {entries read, streams read to their end, last id in the next one or '', records, bytes,
--           {run, its records, its bytes, run, ...}, dead letters read, last id or '', {run, its dead letters, run, ...},
--           {run or '', reason, letters, run, ...}, entries in these streams, dead letters, lanes, clock,
--           {counters of the shard}, {counters of the first run asked for}, ...}; {-1, incarnation found or ''} for
--           another incarnation
-- Entries are read by few, since each may be a megabyte and the server copies them.
expect(KEYS[1], 'hash')
expect(KEYS[2], 'set')
expect(KEYS[3], 'stream')
local streams = tonumber(ARGV[2])
for i = 4, #KEYS do expect(KEYS[i], i < 4 + streams and 'stream' or 'hash') end
if fault then return redis.error_reply(fault) end
local found = redis.call('HGET', KEYS[1], 'incarnation')
if found ~= ARGV[1] then return {-1, found or ''} end
local records, bytes, read, runs, order = 0, 0, 0, {}, {}
local payload = {ids = true, values = true, sparse = true, meta = true}
local finished, last, length, left = 0, '', 0, tonumber(ARGV[4])
for i = 1, streams do
  length = length + redis.call('XLEN', KEYS[3 + i])
  local from = i == 1 and ARGV[3] or '-'
  while left > 0 and finished == i - 1 do
    local entries = redis.call('XRANGE', KEYS[3 + i], from, '+', 'COUNT', math.min(left, 20))
    for _, entry in ipairs(entries) do
      last = entry[1]
      local fields, n, size, run = entry[2], 0, 0, ''
      for k = 1, #fields, 2 do
        if payload[fields[k]] then size = size + #fields[k + 1] end
        if fields[k] == 'n' then n = whole(fields[k + 1]) or 0 end
        if fields[k] == 'run' then run = fields[k + 1] end
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
    if #entries < math.min(left, 20) then finished, last = i, '' end
    read, left = read + #entries, left - #entries
    from = '(' .. last
  end
end
local by_run = {}
for _, run in ipairs(order) do
  by_run[#by_run + 1] = run
  by_run[#by_run + 1] = runs[run][1]
  by_run[#by_run + 1] = runs[run][2]
end
local dead, deaths, reasons, last_dead = 0, {}, {}, ''
local tally, of_reason = {}, {}
local from = ARGV[5]
left = tonumber(ARGV[6])
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
for i = 7, #ARGV do names[#names + 1] = ARGV[i] end
local reply = {read, finished, last, records, bytes, by_run, dead, last_dead, deaths, reasons, length}
reply[#reply + 1] = redis.call('XLEN', KEYS[3])
reply[#reply + 1] = redis.call('SCARD', KEYS[2])
reply[#reply + 1] = redis.call('HGET', KEYS[1], 'clock') or '0-0'
reply[#reply + 1] = redis.call('HMGET', KEYS[1], unpack(names))
for i = 4 + streams, #KEYS do reply[#reply + 1] = redis.call('HMGET', KEYS[i], unpack(names)) end
return reply
