-- KEYS: the visitor's session, the user's, events, visitors that the user was. ARGV: history length, seen limit, session
-- ttl (s), payload, the visitor, ttl of the visitors (s). Returns 1 if there was something to join.

local function hour(seen) return (struct.unpack('<I3', string.sub(seen, 1 + PLACE_BYTES))) end

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local theirs, shown, done = load_session(KEYS[1])
local history, others, types = load_session(KEYS[2])
for at = 1, #theirs, RESPONSE_BYTES do
  local entry = string.sub(theirs, at, at + RESPONSE_BYTES - 1)
  history = add_response(history, entry, false)
  others = without(others, place_of(entry), SEEN_BYTES)
end
for at = 1, #shown, SEEN_BYTES do
  local one = string.sub(shown, at, at + SEEN_BYTES - 1)
  local rest, known = without(others, place_of(one), SEEN_BYTES)
  others = rest .. (known and hour(known) > hour(one) and known or one)
end
each_type(done, function(name, places)
  for at = 1, #places, PLACE_BYTES do
    types = add_type(types, name, string.sub(places, at, at + PLACE_BYTES - 1), ARGV[2])
  end
end)
save_session(KEYS[2], history, others, types, ARGV[1], ARGV[2], ARGV[3])
redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[3], '*', 'e', ARGV[4])
redis.call('SADD', KEYS[4], ARGV[5])
redis.call('EXPIRE', KEYS[4], ARGV[6])
return 1
