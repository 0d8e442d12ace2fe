-- Give workers slots in which they may send, and learn from the 429s that they report: `upsertq_worker.pace.lane` is the
-- twin of this script and says why. The arithmetic is the same in the same order.
-- KEYS: 1 meta, 2 pace
-- ARGV: 1 incarnation, then 8 for each lane: 1 namespace, 2 slots wanted, 3 bytes of a request, 4 requests accepted since
--       the last call, 5 version under which one was answered by 429 ('': none was; 0: it needed no slot), 6 limit that
--       it named (0: none), 7 what is limited: 'requests', 'bytes' or '', 8 seconds to wait
-- Returns: {server's time, then for each lane: version (0: no pace, slots are not needed), seconds until the first
--       slot, seconds between slots, slots given}; {-1, incarnation found or ''} for another incarnation
-- Pace: field 'lane:NAMESPACE' -> version, time of the next free slot, requests a second, bytes a second, starting,
--       passed and since of the window before, and of the current one. A lane that cannot be read is none. Only lanes with
--       a 429 in the last 60 s have a field; those that are asked about no more are swept away when lanes are added.
-- HDEL comes first: after it HSET works even when the server is out of memory.
expect(KEYS[1], 'hash')
expect(KEYS[2], 'hash')
if fault then return redis.error_reply(fault) end
local found = redis.call('HGET', KEYS[1], 'incarnation')
if found ~= ARGV[1] then return {-1, found or ''} end
local told = redis.call('TIME')
local now = tonumber(told[1]) + tonumber(told[2]) / 1e6

local AHEAD, NAMED, START, START_GROWTH, STAGE, MOST_STAGES = 0.2, 0.985, 50, 1.5, 0.5, 20
local CREEP, DOUBLING, CALM, SETTLING, WINDOW, FLOOR, CEILING, MEMORY = 0.003, 10, 0.5, 0.1, 0.5, 0.8, 0.95, 60
local LEAST_REQUESTS, LEAST_BYTES, LEAST_MEASURED, MOST, SHORTEST_STEP, LONGEST_STEP, LONGEST_WAIT = 0.1, 1000, 2, 1e12, 1e-4, 10, 300
local SWEPT_ABOVE, LIFE_MS, LONGEST_TEXT = 100, 600000, 400
local VERSION, AT, REQUESTS, BYTES, STARTING, PASSED_BEFORE, SINCE_BEFORE, PASSED, SINCE = 1, 2, 3, 4, 5, 6, 7, 8, 9

local function remembered(lane)
  local age = now - lane[VERSION] / 1000
  return age >= -1 and (age <= MEMORY or lane[AT] > now + 1) and lane[AT] <= now + 2 * LONGEST_WAIT
end

local function read(text)
  local lane = {}
  if not text or #text > LONGEST_TEXT then return nil end
  for word in string.gmatch(text, '%S+') do
    local number = string.match(word, '^[%d.e+-]+$') and tonumber(word)
    if not (number and number >= 0 and number <= 1e15) then return nil end
    lane[#lane + 1] = number
  end
  return #lane == SINCE and remembered(lane) and lane or nil
end

local function written(lane)
  local words = {}
  for i = 1, SINCE do words[i] = string.format('%.17g', lane[i]) end
  return table.concat(words, ' ')
end

local function growth(lane)
  local age = math.max(0, now - lane[VERSION] / 1000)
  if lane[STARTING] > 0 then return START_GROWTH ^ math.min(MOST_STAGES, math.floor(age / STAGE)) end
  local part = age / DOUBLING
  return 1 + CREEP * age + part * part * part * part
end

local function step_of(lane, size)
  local cost = 0
  if lane[REQUESTS] > 0 then cost = 1 / lane[REQUESTS] end
  if lane[BYTES] > 0 then cost = math.max(cost, size / lane[BYTES]) end
  return math.min(LONGEST_STEP, math.max(SHORTEST_STEP, cost / growth(lane)))
end

local function measured(lane, size)
  local pace = 1 / step_of(lane, size)
  local before = pace / growth(lane)
  local accepted = (lane[PASSED_BEFORE] + lane[PASSED]) / math.max(CALM, now - lane[SINCE_BEFORE])
  return math.max(LEAST_MEASURED, math.min(CEILING * pace, math.max(FLOOR * before, NAMED * accepted)))
end

local function binding(lane, size)
  if lane[BYTES] > 0 and (lane[REQUESTS] <= 0 or size / lane[BYTES] > 1 / lane[REQUESTS]) then return 'bytes' end
  return 'requests'
end

local function taught(lane, size, version, limit, unit, wait)
  local fresh = not lane
  if fresh then
    lane = {0, now, 0, 0, 0, 0, now, 0, now}
  elseif version ~= lane[VERSION] then
    return lane
  elseif now - lane[VERSION] / 1000 < CALM then
    lane[AT] = math.max(lane[AT], now + math.min(wait, LONGEST_WAIT))
    return lane
  end
  local requests, bytes, starting, rate = lane[REQUESTS], lane[BYTES], 0, nil
  if limit > 0 then
    rate = NAMED * limit
  elseif fresh then
    starting = 1
    rate = unit == 'bytes' and START * size or START
  else
    rate = measured(lane, size)
    if unit == '' then unit = binding(lane, size) end
    if unit == 'bytes' then rate = rate * size end
  end
  if unit == 'bytes' then
    bytes = math.min(MOST, math.max(LEAST_BYTES, rate))
  else
    requests = math.min(MOST, math.max(LEAST_REQUESTS, rate))
  end
  local at = math.max(math.min(lane[AT], now + SETTLING), now + math.min(wait, LONGEST_WAIT))
  return {math.max(lane[VERSION] + 1, math.floor(now * 1000)), at, requests, bytes, starting, 0, now, 0, now}
end

local function field_of(place) return 'lane:' .. ARGV[place] end

local names, lanes, reply, removed, kept, added = {}, {}, {string.format('%.17g', now)}, {}, {}, 0
for place = 2, #ARGV, 8 do names[#names + 1] = field_of(place) end
local texts = #names > 0 and redis.call('HMGET', KEYS[2], unpack(names)) or {}
for i = 1, #names do
  local place = 2 + (i - 1) * 8
  local wanted, size, passed = tonumber(ARGV[place + 1]), tonumber(ARGV[place + 2]), tonumber(ARGV[place + 3])
  local lane = read(texts[i])
  if lane then
    lane[PASSED] = lane[PASSED] + passed
    if now - lane[SINCE] >= WINDOW then
      lane[PASSED_BEFORE], lane[SINCE_BEFORE], lane[PASSED], lane[SINCE] = lane[PASSED], lane[SINCE], 0, now
    end
  end
  if ARGV[place + 4] ~= '' then
    if not lane then added = added + 1 end
    lane = taught(lane, size, tonumber(ARGV[place + 4]), tonumber(ARGV[place + 5]), ARGV[place + 6], tonumber(ARGV[place + 7]))
  end
  local version, first, step, count = 0, 0, 0, 0
  if lane then
    version, step, first = lane[VERSION], step_of(lane, size), math.max(lane[AT], now)
    count = math.max(0, math.min(wanted, math.max(1, math.floor((now + AHEAD - first) / step) + 1)))
    if count > 0 then lane[AT] = first + count * step end
    first = first - now
    kept[#kept + 1], kept[#kept + 2] = names[i], written(lane)
  end
  if texts[i] then removed[#removed + 1] = names[i] end
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3], reply[#reply + 4] =
    string.format('%.0f', version), string.format('%.17g', first), string.format('%.17g', step), count
end

if added > 0 and redis.call('HLEN', KEYS[2]) > SWEPT_ABOVE then
  local cursor = redis.call('HGET', KEYS[2], 'sweep') or '0'
  local swept = redis.call('HSCAN', KEYS[2], string.match(cursor, '^%d+$') and cursor or '0', 'COUNT', 4 * added)
  for i = 1, #swept[2], 2 do
    if string.sub(swept[2][i], 1, 5) == 'lane:' and not read(swept[2][i + 1]) then removed[#removed + 1] = swept[2][i] end
  end
  kept[#kept + 1], kept[#kept + 2] = 'sweep', swept[1]
end
if #removed > 0 or #kept > 0 then redis.call('HDEL', KEYS[2], 'none', unpack(removed)) end
if #kept > 0 then
  redis.call('HSET', KEYS[2], unpack(kept))
  redis.call('PEXPIRE', KEYS[2], LIFE_MS)
end
return reply
