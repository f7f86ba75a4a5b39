-- KEYS: ranked, events, session, the user's events. ARGV: history length, seen limit, session ttl (s), what is replaced
-- ("" for nothing), what is remembered, its ttl (s), the impression's payload ("" logs nothing), its item as seen, the event's id
-- ("" if it is no user's). Returns what stays remembered because it is neither nothing nor what is replaced; else false.

local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[4] then return held end
redis.call('SET', KEYS[1], ARGV[5], 'EX', ARGV[6])
if ARGV[9] ~= '' then
  local now = tonumber(redis.call('TIME')[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[4], 0, now - 1)
  redis.call('ZADD', KEYS[4], 'GT', now + ARGV[6], ARGV[9])
  redis.call('EXPIRE', KEYS[4], 2 * ARGV[6])
end
if ARGV[7] ~= '' then log_impression(KEYS[2], KEYS[3], ARGV[7], ARGV[8], ARGV[1], ARGV[2], ARGV[3]) end
return false
