-- Close a queue to all that hold its shape, for a while, and end that: what this notes decides what the queue is.
-- KEYS: 1 meta
-- ARGV: 1 incarnation, 2 verb; then
--       of 'close' (a queue that is ready, or is closed so already): the incarnation that shall follow, ms that this may take
--       of 'prolong': the same
--       of 'complete', while its time is not over: the incarnation that shall follow, and the state and the number of
--       shards that the queue has from now on
--       of 'reopen' (a queue that is closing): a third incarnation, '1' to do so before the time is over
--       of 'reopened', when every shard holds it: that third incarnation
-- Returns: {1 when this holds now, else 0; state; the incarnation that follows or ''; of a queue that is reopened the
--       one that was to follow, or ''; ms left}; {-1, incarnation found or ''} for another incarnation: nothing was done
-- Each write begins with HDEL: after it HSET works even when the server is out of memory.
expect(KEYS[1], 'hash')
if fault then return redis.error_reply(fault) end
local meta = redis.call('HMGET', KEYS[1], 'incarnation', 'state', 'following', 'former', 'until')
if meta[1] ~= ARGV[1] then return {-1, meta[1] or ''} end
local state, following, former, deadline = meta[2] or '', meta[3] or '', meta[4] or '', whole(meta[5]) or 0
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local left, done = math.max(0, deadline - now_ms), 0

local function note(...)
  redis.call('HDEL', KEYS[1], 'until')
  redis.call('HSET', KEYS[1], ...)
  done = 1
end

local function over(incarnation, ...)
  redis.call('HDEL', KEYS[1], 'until', 'following', 'former')
  redis.call('HSET', KEYS[1], 'incarnation', incarnation, ...)
  done = 1
end

local verb, ours = ARGV[2], state == 'closing' and following == ARGV[3] and left > 0
if (verb == 'close' and (state == 'ready' or ours)) or (verb == 'prolong' and ours) then
  state, following = 'closing', ARGV[3]
  note('state', state, 'following', following, 'until', string.format('%.0f', now_ms + tonumber(ARGV[4])))
elseif verb == 'complete' and ours then
  state = ARGV[4]
  over(following, 'state', state, 'shards', ARGV[5])
elseif verb == 'reopen' and state == 'closing' and (left == 0 or ARGV[4] == '1') then
  state, former, following = 'reopening', following, ARGV[3]
  note('state', state, 'following', following, 'former', former)
elseif verb == 'reopen' and state == 'reopening' then
  done = 1
elseif verb == 'reopened' and state == 'reopening' and following == ARGV[3] then
  state = 'ready'
  over(following, 'state', state)
end
return {done, state, following, former, left}
