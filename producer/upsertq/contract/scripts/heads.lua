-- Read a page of one shard's dead letters without their payload, which may be large and which a list does not show.
-- KEYS: 1 stream of dead letters
-- ARGV: 1 first stream id, 2 last stream id (both as XRANGE takes them), 3 most letters
-- Returns: {{stream id, {field, value, ...}}, ...}
expect(KEYS[1], 'stream')
if fault then return redis.error_reply(fault) end
local payload = {values = true, sparse = true, meta = true}
local from, left, page = ARGV[1], tonumber(ARGV[3]), {}
while left > 0 do
  local letters = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', math.min(left, 20))
  for _, letter in ipairs(letters) do
    local fields, kept = letter[2], {}
    for i = 1, #fields, 2 do
      if not payload[fields[i]] then
        kept[#kept + 1] = fields[i]
        kept[#kept + 1] = fields[i + 1]
      end
    end
    page[#page + 1] = {letter[1], kept}
  end
  if #letters < math.min(left, 20) then break end
  left = left - #letters
  from = '(' .. page[#page][1]
end
return page
