-- A library, after session.lua: log an impression, with `seen`, its items as they are appended to those seen.
local function log_impression(events, session, payload, seen, longest_history, longest_seen, ttl)
  local history, others, types = load_session(session)
  redis.call('XADD', events, '*', 'e', payload)
  if #seen > 0 then save_session(session, history, others .. seen, types, longest_history, longest_seen, ttl) end
end
