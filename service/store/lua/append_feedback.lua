-- KEYS: events, popularity, that of the day, then for each event: dedupe, session.
-- ARGV: dedupe ttl (s), history length, seen limit, session ttl (s), ttl of a day's popularity (s), then for each event: payload, item's place and
-- reward as in an entry, when (ms; "" for now, by the server's clock as the log has it), item, how it counts ("explicit",
-- "implicit", "undo", or "" to leave the session alone), and its type ("" if it has none).

local accepted = {}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 0, (#KEYS - 3) / 2 - 1 do
  local dedupe, session = KEYS[4 + i * 2], KEYS[5 + i * 2]
  local payload, entry, item, kind = ARGV[6 + i * 6], ARGV[7 + i * 6], ARGV[9 + i * 6], ARGV[10 + i * 6]
  local at = math.min(now, tonumber(ARGV[8 + i * 6]) or now)
  if at < now - ARGV[4] * 1000 then kind = '' end
  entry = entry .. struct.pack('<I6', math.max(0, at))
  local history, others, types = load_session(session)
  if redis.call('SET', dedupe, '1', 'NX', 'EX', ARGV[1]) then
    redis.call('XADD', KEYS[1], '*', 'e', payload)
    local likes = 0
    if kind == '' then
      likes = said(entry) > 0 and 1 or 0
    elseif kind == 'undo' then
      local rest, known = without(history, place_of(entry), RESPONSE_BYTES)
      local reward, known_at = 0, at
      if known then reward, known_at = said(known) end
      if known_at <= at and (known or types ~= '') then
        types = without_types(types, place_of(entry))
        if known then
          history, likes = rest, reward > 0 and -1 or 0
          others = without(others, place_of(entry), SEEN_BYTES) .. place_of(entry) .. hour_of(at)
        end
        save_session(session, history, others, types, ARGV[2], ARGV[3], ARGV[4])
      end
    else
      others = without(others, place_of(entry), SEEN_BYTES)
      history, likes = add_response(history, entry, kind == 'explicit')
      if ARGV[11 + i * 6] ~= '' then types = add_type(types, ARGV[11 + i * 6], place_of(entry), ARGV[3]) end
      save_session(session, history, others, types, ARGV[2], ARGV[3], ARGV[4])
    end
    if likes ~= 0 then
      redis.call('ZINCRBY', KEYS[2], likes, item)
      redis.call('ZINCRBY', KEYS[3], likes, item)
      redis.call('EXPIRE', KEYS[3], ARGV[5])
    end
    accepted[i + 1] = 1
  else
    accepted[i + 1] = 0
  end
end
return accepted
