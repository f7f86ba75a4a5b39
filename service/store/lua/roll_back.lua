-- KEYS: live, activations, roll-backs. ARGV: first version to roll back, new pointer, its version, record. Returns 1 if
-- the pointer moved, else 0.

local live = cjson.decode(redis.call('GET', KEYS[1]))
if live.mode == 'frozen' or live.version < tonumber(ARGV[1]) then return 0 end
local stack = redis.call('LRANGE', KEYS[2], 0, -1)
redis.call('DEL', KEYS[2])
for _, version in ipairs(stack) do
  if tonumber(version) < tonumber(ARGV[1]) then redis.call('RPUSH', KEYS[2], version) end
end
if redis.call('LINDEX', KEYS[2], -1) ~= ARGV[3] then redis.call('RPUSH', KEYS[2], ARGV[3]) end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('LPUSH', KEYS[3], ARGV[4])
redis.call('LTRIM', KEYS[3], 0, 99)
return 1
