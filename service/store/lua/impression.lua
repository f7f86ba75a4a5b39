-- A library, after session.lua: log an impression, with `places`, its items as they are appended to those seen.
local function log_impression(events, session, payload, places, longest_history, longest_seen, ttl)
  local history, others = load_session(session)
  redis.call('XADD', events, '*', 'e', payload)
  if #places > 0 then save_session(session, history, others .. places, longest_history, longest_seen, ttl) end
end
