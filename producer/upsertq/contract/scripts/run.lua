-- Open or seal a run.
-- KEYS: 1 meta, 2 runs
-- ARGV: 1 incarnation, 2 run, 3 the caller's time in ms, 4 'open' (a new run begins now; a sealed one is open again) or
--       'seal', 5 records of the run that were counted before it is sealed
-- Returns: {the run as it stands now: JSON {"begun": ms, "sealed": ms or null, "records": n}}; {-1, incarnation found
-- or ''} for another incarnation: nothing was done
-- It is sealed by the server's time, as records are added by it: what is added later opens the run again.
if expect(KEYS[1], 'hash') then expect(KEYS[2], 'hash') end
if fault then return redis.error_reply(fault) end
local found = redis.call('HGET', KEYS[1], 'incarnation')
if found ~= ARGV[1] then return {-1, found or ''} end
local noted = redis.call('HGET', KEYS[2], ARGV[2]) or ''
local begun = string.match(noted, '"begun":(%d+)') or ARGV[3]
local records, sealed = string.match(noted, '"records":(%d+)') or '0', 'null'
if ARGV[4] == 'seal' then
  local now = redis.call('TIME')
  sealed = string.format('%.0f', tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000))
  if (whole(records) or 0) < tonumber(ARGV[5]) then records = ARGV[5] end
end
local now = '{"begun":' .. begun .. ',"sealed":' .. sealed .. ',"records":' .. records .. '}'
if now ~= noted then redis.call('HSET', KEYS[2], ARGV[2], now) end
return {now}
