-- KEYS: items, index, changes, seq, events, arrivals. ARGV: id, record, event payload ("" logs nothing: it is of those
-- that a deployment begins with), "1" to replace an item, arrivals that are kept. Returns 1 for a new item.

if ARGV[4] ~= '1' and redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 0 end
local new = redis.call('HSETNX', KEYS[2], ARGV[1], redis.call('HLEN', KEYS[2]))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[3], redis.call('INCR', KEYS[4]), ARGV[1])
if ARGV[3] ~= '' then redis.call('XADD', KEYS[5], '*', 'e', ARGV[3]) end
if new == 1 and ARGV[3] ~= '' then
  local hour = math.floor(redis.call('TIME')[1] / 3600)
  redis.call('ZADD', KEYS[6], 'NX', redis.call('HLEN', KEYS[2]) - 1, hour)
  redis.call('ZREMRANGEBYRANK', KEYS[6], 0, -1 - ARGV[5])
end
return new
