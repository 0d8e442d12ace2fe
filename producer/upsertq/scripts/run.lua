-- Open or seal a run.
-- KEYS: 1 meta, 2 runs
-- ARGV: 1 incarnation, 2 run, 3 time in ms, 4 'open' (a new run begins now; a sealed one is open again) or 'seal'
-- Returns: {the run as it stands now: JSON {"begun": ms, "sealed": ms or null}}; {-1, incarnation found or ''} for
-- another incarnation: nothing was done
-- A run that is sealed again keeps the time of its first sealing.
local found = redis.call('HGET', KEYS[1], 'incarnation')
if found ~= ARGV[1] then return {-1, found or ''} end
local noted = redis.call('HGET', KEYS[2], ARGV[2]) or ''
local begun = string.match(noted, '"begun":(%d+)') or ARGV[3]
local sealed = 'null'
if ARGV[4] == 'seal' then sealed = string.match(noted, '"sealed":(%d+)') or ARGV[3] end
local now = '{"begun":' .. begun .. ',"sealed":' .. sealed .. '}'
if now ~= noted then redis.call('HSET', KEYS[2], ARGV[2], now) end
return {now}
