-- Take a shard's lease if it is free, or prolong it if it is ours.
-- KEYS: 1 lease, 2 books
-- ARGV: 1 incarnation, 2 worker's name, 3 epoch we believe to hold (0: none), 4 life in ms, 5 '1' to take it if free, 6
--       entries settled here that we were told of under this epoch (0: none)
-- Returns: {epoch or 0 when it is not ours, holder's name or '', clean 1 or 0, unclean deaths in a row, mark or '',
--       clock}: the last four tell how a lease that was taken now was left (else 1, 0, '', ''); {-1, incarnation found
--       or ''} for another incarnation; the error DAMAGED names a lease or field that cannot be: nothing was done
-- A takeover is clean when nothing held the lease before, or its last holder released it (see release.lua). An unclean
-- one counts a death and keeps the clock as `boundary`: what is in a stream up to it may be on its way.
-- A lease that ran out unnoticed goes back to its holder with the same epoch when no other came between, which is no
-- death; one that was released is not prolonged, and its epoch is never given again. A call that prolongs takes nothing
-- anew: it may come late, after its worker let go of the shard. Nor is one prolonged whose holder was told of settlements
-- that the server has lost, as in a failover: what it has read is not all that is pending before what it reads next.
-- DEL of nothing comes before the other writes: after it they work even when the server is out of memory.
expect(KEYS[1], 'string')
expect(KEYS[2], 'hash')
if fault then return redis.error_reply(fault) end
local names = {'incarnation', 'epoch', 'released', 'deaths', 'mark', 'clock'}
local books = redis.call('HMGET', KEYS[2], 'incarnation', 'epoch', 'released', 'deaths', 'mark', 'clock', 'settles')
if books[1] ~= ARGV[1] then return {-1, books[1] or ''} end

for i = 2, 4 do
  local number = whole(books[i])
  if not number or number < 0 then
    damaged(KEYS[2], 'holds as ' .. names[i] .. ' what is no number, or too great a one: HSET it to a greater one than any that '
      .. 'a worker had, or to 0 while no worker runs')
  end
end
clock_of(KEYS[2], books[6])
local epoch, released = whole(books[2]), whole(books[3])
local settles = whole(books[7]) or most_count -- what cannot be read is told by the script that settles

local current = redis.call('GET', KEYS[1])
if current then
  local its, holder = string.match(current, '^(%d+):(.*)$')
  if not its or not whole(its) then damaged(KEYS[1], 'is no lease: DEL it') end
  if fault then return redis.error_reply(fault) end
  if current ~= ARGV[3] .. ':' .. ARGV[2] or whole(its) == released or settles < tonumber(ARGV[6]) then
    return {0, holder, 1, 0, '', ''}
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return {whole(its), holder, 1, 0, '', ''}
end
if fault then return redis.error_reply(fault) end
local believed = tonumber(ARGV[3])
local unnoticed = epoch > 0 and believed == epoch and released ~= epoch and settles >= tonumber(ARGV[6])
if ARGV[5] ~= '1' or (believed > 0 and not unnoticed) then return {0, '', 1, 0, '', ''} end

redis.call('DEL', KEYS[1])
if unnoticed then
  redis.call('SET', KEYS[1], string.format('%.0f', epoch) .. ':' .. ARGV[2], 'PX', ARGV[4])
  return {epoch, ARGV[2], 1, 0, '', ''}
end
local clean = (epoch == 0 or released == epoch) and 1 or 0
local deaths = clean == 1 and 0 or whole(books[4]) + 1
epoch = epoch + 1
local clock = books[6] or '0-0'
redis.call('SET', KEYS[1], string.format('%.0f', epoch) .. ':' .. ARGV[2], 'PX', ARGV[4])
redis.call('HSET', KEYS[2], 'epoch', string.format('%.0f', epoch))
if clean == 1 then
  if books[4] then redis.call('HDEL', KEYS[2], 'deaths') end
else
  redis.call('HSET', KEYS[2], 'deaths', string.format('%.0f', deaths), 'boundary', clock)
end
return {epoch, ARGV[2], clean, deaths, books[5] or '', clock}
