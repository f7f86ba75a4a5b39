-- KEYS: the catalogue's sequence, then of each user the session and the features. Returns what they hold; one that is
-- no string holds nothing.

local found = {redis.call('GET', KEYS[1])}
for i = 2, #KEYS do
  local data = redis.pcall('GET', KEYS[i])
  found[i] = type(data) == 'string' and data or ''
end
return found
