-- KEYS: dead, events. ARGV: entry id. Returns the event's new id, or false if there is no such entry.

local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if #found == 0 then return false end
local payload = ''
for i = 1, #found[1][2], 2 do if found[1][2][i] == 'e' then payload = found[1][2][i + 1] end end
local id = redis.call('XADD', KEYS[2], '*', 'e', payload)
redis.call('XDEL', KEYS[1], ARGV[1])
return id
