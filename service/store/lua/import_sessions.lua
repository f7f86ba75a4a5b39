-- KEYS: popularity, then users' sessions. ARGV: history length, seen limit, session ttl (s), rewards by which users state
-- an opinion (float32 each); then for each user: number of responses, number of feedback types, what they saw without a
-- response, as sessions have it; then for each response, oldest first: entry of the history, "1" if it replaces what was
-- said of the item before, item; then for each type: its name, places. Returns for each user 1 if the session changed, else 0. What a session has of later counts as it would have in order.

local function is_news(history, entry)
  local at_byte = find(history, place_of(entry), RESPONSE_BYTES)
  if not at_byte then return true end
  local known = string.sub(history, at_byte, at_byte + RESPONSE_BYTES - 1)
  local before, known_at = said(known)
  local reward, at = said(entry)
  if known_at <= at then return true end
  if before <= 0 or find(ARGV[4], string.sub(known, 1 + PLACE_BYTES, 7), 4) then return false end
  return math.abs(reward) > math.abs(before)
end

local function likes(history, place)
  local at = find(history, place, RESPONSE_BYTES)
  return at and said(string.sub(history, at, at + RESPONSE_BYTES - 1)) > 0 and 1 or 0
end

local function once(seen)  -- each where it stands last
  local kept, known = {}, {}
  for at = #seen - SEEN_BYTES + 1, 1, -SEEN_BYTES do
    local place = string.sub(seen, at, at + PLACE_BYTES - 1)
    if not known[place] then table.insert(kept, 1, string.sub(seen, at, at + SEEN_BYTES - 1)) end
    known[place] = true
  end
  return table.concat(kept)
end

local changed, argument = {}, 5
for user = 2, #KEYS do
  local before, others, types = load_session(KEYS[user])
  local history, saw = before, ARGV[argument + 2]
  local first = argument + 3
  local after = first + 3 * tonumber(ARGV[argument])
  argument = after + 2 * tonumber(ARGV[argument + 1])
  for at = first, after - 1, 3 do
    if is_news(history, ARGV[at]) then history = add_response(history, ARGV[at], ARGV[at + 1] == '1') end
  end
  for at = #saw - SEEN_BYTES + 1, 1, -SEEN_BYTES do
    local one = string.sub(saw, at, at + SEEN_BYTES - 1)
    local is_known = find(history, place_of(one), RESPONSE_BYTES) or find(others, place_of(one), SEEN_BYTES)
    if not is_known then others = one .. others end
  end
  for at = after, argument - 1, 2 do
    for last = #ARGV[at + 1], 1, -PLACE_BYTES do
      types = add_type(types, ARGV[at], string.sub(ARGV[at + 1], last - PLACE_BYTES + 1, last), ARGV[2], true)
    end
  end
  history, others = fit_history(history, others, ARGV[1])
  local data, is_there = pack_session(history, once(others), types, ARGV[2]), redis.call('EXISTS', KEYS[user]) == 1
  changed[user - 1] = 0
  if #data > 4 and data ~= (is_there and redis.pcall('GET', KEYS[user])) then
    if is_there then redis.call('SET', KEYS[user], data, 'KEEPTTL') else redis.call('SET', KEYS[user], data, 'EX', ARGV[3]) end
    for at = first, after - 1, 3 do
      local place = place_of(ARGV[at])
      local more = likes(history, place) - likes(before, place)
      if more ~= 0 then redis.call('ZINCRBY', KEYS[1], more, ARGV[at + 2]) end
    end
    changed[user - 1] = 1
  end
end
return changed
