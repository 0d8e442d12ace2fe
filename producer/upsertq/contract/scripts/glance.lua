-- The lengths of streams of one shard's lanes and the id of their oldest entry, without carrying an entry itself.
-- KEYS: any number of streams
-- ARGV: none
-- Returns: {oldest id of all or '', entries in each}
for i = 1, #KEYS do expect(KEYS[i], 'stream') end
if fault then return redis.error_reply(fault) end
local reply, least, counted = {''}, nil, nil
for i = 1, #KEYS do
  reply[i + 1] = redis.call('XLEN', KEYS[i])
  local oldest = redis.call('XRANGE', KEYS[i], '-', '+', 'COUNT', 1)[1]
  if oldest then
    local ms, n = string.match(oldest[1], '^(%d+)%-(%d+)$')
    ms, n = tonumber(ms), tonumber(n)
    if not least or ms < least or (ms == least and n < counted) then reply[1], least, counted = oldest[1], ms, n end
  end
end
return reply
