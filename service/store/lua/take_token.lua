-- KEYS: the bucket. ARGV: rate (1/s), burst, rounding (s). Returns the seconds to wait as text, "0" if one was taken.

local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local step, capacity = 1 / tonumber(ARGV[1]), tonumber(ARGV[2]) / tonumber(ARGV[1])
local full_at = tonumber(redis.call('GET', KEYS[1]) or now)
full_at = math.min(math.max(full_at, now), now + capacity) + step
local wait = full_at - now - capacity
if wait > tonumber(ARGV[3]) then return string.format('%.6f', wait) end
redis.call('SET', KEYS[1], string.format('%.6f', full_at), 'PX', math.ceil((full_at - now) * 1000))
return '0'
