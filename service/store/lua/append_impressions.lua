-- KEYS: events, then for each impression: session. ARGV: history length, seen limit, session ttl (s), then for each
-- impression: payload, its items as they are appended to those seen.

for i = 2, #KEYS do
  log_impression(KEYS[1], KEYS[i], ARGV[i * 2], ARGV[i * 2 + 1], ARGV[1], ARGV[2], ARGV[3])
end
