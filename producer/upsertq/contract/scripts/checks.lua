-- What every script looks at before its first write; each is run behind this text. Lua does not roll back: so all that can
-- fail (a key of a foreign type, a counter that is none or that would overflow, a stream without room for another id) is
-- found here first, noted in `fault`, and returned as an error that names the key and the cure, when nothing has happened.
local unpack = unpack or table.unpack
local fault
local most_count = 9e15 -- as `upsertq.contract.figures` has it: Lua tells it from its neighbours

local function damaged(key, what)
  fault = fault or ('DAMAGED ' .. key .. ' ' .. what)
end

-- Whether a key is of the type it ought to be, or absent.
local function is_type(key, wanted)
  local found = redis.call('TYPE', key)
  found = type(found) == 'table' and found['ok'] or found
  return found == wanted or found == 'none'
end

-- The same, and a fault where it is not.
local function expect(key, wanted)
  if is_type(key, wanted) then return true end
  damaged(key, 'is no ' .. wanted .. ': another program wrote it: RENAME it out of the way')
  return false
end

-- The whole number that a text spells as Redis itself spells it, or nil.
local function whole(text)
  if not text then return 0 end
  if #text > 17 or not (text == '0' or string.match(text, '^%-?[1-9]%d*$')) then return nil end
  local number = tonumber(text)
  return math.abs(number) <= most_count and number or nil
end

local function printable(text)
  return (string.gsub(string.sub(text, 1, 60), '[^%w:_.%-]', '?'))
end

local function no_counter(key, field)
  damaged(key, 'holds as ' .. printable(field) .. ' what is no counter, or one that is full: '
    .. 'audit tells what it ought to be, HSET puts it there')
end

-- Check that counters of a hash can be added to: `adds` is name -> number. Returns what they are: name -> number.
local function expect_counters(key, adds)
  local found = {}
  if not expect(key, 'hash') then return found end
  local names = {}
  for name in pairs(adds) do names[#names + 1] = name end
  for first = 1, #names, 100 do
    local last = math.min(first + 99, #names)
    local values = redis.call('HMGET', key, unpack(names, first, last))
    for i = first, last do
      local number = whole(values[i - first + 1])
      found[names[i]] = number
      if not number or math.abs(number + adds[names[i]]) > most_count then
        no_counter(key, names[i])
      end
    end
  end
  return found
end

-- The parts of the shard's clock, the last sequence that it gave; 0 and 0 where there is none.
local function clock_of(key, text)
  local ms, n = string.match(text or '0-0', '^(%d+)%-(%d+)$')
  ms, n = whole(ms or 'x'), whole(n or 'x')
  if not (ms and n) then damaged(key, "holds as clock what is no stream id: HSET the greatest one of the shard's streams") end
  return ms, n
end

-- The fields of an entry or a letter by name.
local function by_name(fields)
  local found = {}
  for i = 1, #fields, 2 do found[fields[i]] = fields[i + 1] end
  return found
end

-- The one id of a letter, or nil where it has none or several.
local function sole_id(letter)
  local read, ids = pcall(cjson.decode, letter['ids'] or '')
  if read and type(ids) == 'table' and #ids == 1 and type(ids[1]) == 'string' then return ids[1] end
  return nil
end
