-- Note runs otherwise than they were noted, or take them out of the notes; each only if it is noted as it was. Pauses, too.
-- KEYS: 1 meta, 2 runs, or pauses
-- ARGV: 1 incarnation; then for each run: its name, the note that it has, the note that it gets ('': none)
-- Returns: for each run 1 where it is noted so now, else 0; {-1, incarnation found or ''} for another incarnation:
--       nothing was done
-- HDEL comes first, of nothing if need be: after it HSET works even when the server is out of memory.
expect(KEYS[1], 'hash')
expect(KEYS[2], 'hash')
if fault then return redis.error_reply(fault) end
local found = redis.call('HGET', KEYS[1], 'incarnation')
if found ~= ARGV[1] then return {-1, found or ''} end
local reply = {}
for i = 2, #ARGV, 3 do
  local noted = redis.call('HGET', KEYS[2], ARGV[i]) or ''
  if noted == ARGV[i + 1] and noted ~= ARGV[i + 2] then
    if ARGV[i + 2] == '' then
      redis.call('HDEL', KEYS[2], ARGV[i])
    else
      redis.call('HDEL', KEYS[2], '')
      redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2])
    end
    noted = ARGV[i + 2]
  end
  reply[#reply + 1] = noted == ARGV[i + 2] and 1 or 0
end
return reply
