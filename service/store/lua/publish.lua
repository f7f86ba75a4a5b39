-- KEYS: policies, live, activations. ARGV: version, record, live pointer, "1" if it may serve, then "" or a version that
-- serves no more if this one may not, and the pointer that then takes its place with its version. Returns 1 if the new
-- version serves. Where there is a shadow version, the new version becomes the next one.

local live = redis.call('GET', KEYS[2])
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 and live then
  return tostring(cjson.decode(live).version) == ARGV[1] and 1 or 0
end
if live and cjson.decode(live).shadow then
  local pointer = cjson.decode(live)
  pointer.shadow = tonumber(ARGV[1])
  redis.call('SET', KEYS[2], cjson.encode(pointer))
  return 0
end
if live and cjson.decode(live).mode ~= 'auto' then return 0 end
local pointer, version = ARGV[3], ARGV[1]
if ARGV[4] ~= '1' then
  if not live or tostring(cjson.decode(live).version) ~= ARGV[5] then return 0 end
  pointer, version = ARGV[6], ARGV[7]
  while tonumber(redis.call('LINDEX', KEYS[3], -1) or 0) > tonumber(version) do redis.call('RPOP', KEYS[3]) end
end
redis.call('SET', KEYS[2], pointer)
if redis.call('LINDEX', KEYS[3], -1) ~= version then redis.call('RPUSH', KEYS[3], version) end
redis.call('LTRIM', KEYS[3], -100, -1)
return version == ARGV[1] and 1 or 0
