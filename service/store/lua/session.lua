-- A library: sessions as sessions.py encodes them, for the scripts that change one. See `decode`, `encode` and `joined`
-- there; a test holds both sides to the same results.
local FORMAT, PLACE_BYTES, RESPONSE_BYTES, OLD_BYTES = 255, 3, 13, 7

local function load_session(key)
  local data = redis.pcall('GET', key)
  if type(data) ~= 'string' then return '', '' end
  local first, n = string.byte(data, 1, 2)
  local start, width = 2, RESPONSE_BYTES
  if first ~= FORMAT then start, width, n = 1, OLD_BYTES, first or 0 end
  local rest = #data - start - width * (n or 0)
  if rest < 0 or rest % PLACE_BYTES ~= 0 then return '', '' end
  local history = string.sub(data, start + 1, start + width * n)
  if width == OLD_BYTES then
    local entries = {}
    for at = 1, #history, width do
      entries[#entries + 1] = string.sub(history, at, at + width - 1) .. string.rep('\0', 6)
    end
    history = table.concat(entries)
  end
  return history, string.sub(data, start + 1 + width * n)
end

local function find(items, place, width)
  local at = string.find(items, place, 1, true)
  while at and (at - 1) % width ~= 0 do at = string.find(items, place, at + 1, true) end
  return at
end

local function without(items, place, width)
  local at, found = find(items, place, width), nil
  while at do  -- once, but for sessions of older releases
    found = string.sub(items, at, at + width - 1)
    items = string.sub(items, 1, at - 1) .. string.sub(items, at + width)
    at = find(items, place, width)
  end
  return items, found
end

local function place_of(entry) return string.sub(entry, 1, PLACE_BYTES) end

local function said(entry) return struct.unpack('<fI6', string.sub(entry, 1 + PLACE_BYTES, RESPONSE_BYTES)) end
-- Returns the history with the response in its place in time, and by how many likes of the item it has more.

local function add_response(history, entry, explicit)
  local place = place_of(entry)
  local rest, known = without(history, place, RESPONSE_BYTES)
  local reward, at = said(entry)
  local before = 0
  if known then
    before = said(known)
    local _, known_at = said(known)
    local stronger = math.abs(reward) - math.abs(before)
    if not ((explicit and at >= known_at) or stronger > 0 or (stronger == 0 and at >= known_at)) then
      reward = before
    end
    at = math.max(at, known_at)
    entry = place .. struct.pack('<fI6', reward, at)
  end
  local after = #rest
  while after > 0 do
    local _, then_at = said(string.sub(rest, after - RESPONSE_BYTES + 1, after))
    if then_at <= at then break end
    after = after - RESPONSE_BYTES
  end
  local more = (reward > 0 and 1 or 0) - (before > 0 and 1 or 0)
  return string.sub(rest, 1, after) .. entry .. string.sub(rest, after + 1), more
end

-- Returns history and others once the history is no longer than it may be; what goes from it is the oldest seen.
local function fit_history(history, others, longest_history)
  while #history > RESPONSE_BYTES * longest_history do
    local weakest, least = 1, math.huge
    local last = #history - RESPONSE_BYTES + 1
    if said(string.sub(history, last)) ~= 0 then last = last - RESPONSE_BYTES end
    for at = 1, last, RESPONSE_BYTES do
      local strength = math.abs((said(string.sub(history, at, at + RESPONSE_BYTES - 1))))
      if strength < least then weakest, least = at, strength end
    end
    local place = string.sub(history, weakest, weakest + PLACE_BYTES - 1)
    history = string.sub(history, 1, weakest - 1) .. string.sub(history, weakest + RESPONSE_BYTES)
    if not find(history, place, RESPONSE_BYTES) then others = place .. others end
  end
  return history, others
end

local function pack_session(history, others, longest_seen)
  others = string.sub(others, -PLACE_BYTES * longest_seen)
  return string.char(FORMAT, #history / RESPONSE_BYTES) .. history .. others
end

local function save_session(key, history, others, longest_history, longest_seen, ttl)
  history, others = fit_history(history, others, longest_history)
  redis.call('SET', key, pack_session(history, others, longest_seen), 'EX', ttl)
end
