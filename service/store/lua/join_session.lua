-- KEYS: the visitor's session, the user's, events, visitors that the user was. ARGV: history length, seen limit, session
-- ttl (s), payload, the visitor, ttl of the visitors (s). Returns 1 if there was something to join.

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local theirs, shown = load_session(KEYS[1])
local history, others = load_session(KEYS[2])
for at = 1, #theirs, RESPONSE_BYTES do
  local entry = string.sub(theirs, at, at + RESPONSE_BYTES - 1)
  history = add_response(history, entry, false)
  others = without(others, place_of(entry), PLACE_BYTES)
end
for at = 1, #shown, PLACE_BYTES do
  local place = string.sub(shown, at, at + PLACE_BYTES - 1)
  others = without(others, place, PLACE_BYTES) .. place
end
save_session(KEYS[2], history, others, ARGV[1], ARGV[2], ARGV[3])
redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[3], '*', 'e', ARGV[4])
redis.call('SADD', KEYS[4], ARGV[5])
redis.call('EXPIRE', KEYS[4], ARGV[6])
return 1
