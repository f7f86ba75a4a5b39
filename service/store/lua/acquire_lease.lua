-- KEYS: lease, fence. ARGV: time to live (ms), own token ("" for none). Returns the token held, 0 if another holds it.

local holder, fence = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then return 0 end
local token = ARGV[2]
if token == '' or fence ~= token then token = tostring(redis.call('INCR', KEYS[2])) end
redis.call('SET', KEYS[1], token, 'PX', ARGV[1])
return tonumber(token)
