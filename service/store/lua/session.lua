-- A library: sessions as sessions.py encodes them, for the scripts that change one. See `decode`, `encode` and `joined`
-- there; a test holds both sides to the same results.
local FORMAT, UNTIMED, PLACE_BYTES, SEEN_BYTES, RESPONSE_BYTES, OLD_BYTES = 254, 255, 3, 6, 13, 7

local function hour_of(ms) return struct.pack('<I3', math.max(0, math.min(math.floor(ms / 3600000), 16777215))) end

-- Items by feedback type: calls visit(name, places) for each; false if they are not whole.
local function each_type(types, visit)
  local at = 1
  while at <= #types do
    local count_at = at + 1 + string.byte(types, at)
    if #types < count_at + 1 then return false end
    local stop = count_at + 1 + PLACE_BYTES * struct.unpack('<I2', string.sub(types, count_at, count_at + 1))
    if #types < stop then return false end
    visit(string.sub(types, at + 1, count_at - 1), string.sub(types, count_at + 2, stop))
    at = stop + 1
  end
  return true
end

local function load_untimed(data)
  local first, n = string.byte(data, 1, 2)
  local start, width = 2, RESPONSE_BYTES
  if first ~= UNTIMED then start, width, n = 1, OLD_BYTES, first or 0 end
  local rest = #data - start - width * (n or 0)
  if rest < 0 or rest % PLACE_BYTES ~= 0 then return '', '' end
  local entries, others, clock = {}, {}, redis.call('TIME')
  for at = start + 1, start + width * n, width do
    local entry = string.sub(data, at, at + width - 1)
    entries[#entries + 1] = entry .. string.rep('\0', RESPONSE_BYTES - width)
  end
  for at = start + width * n + 1, #data, PLACE_BYTES do  -- now at the latest
    others[#others + 1] = string.sub(data, at, at + PLACE_BYTES - 1) .. hour_of(clock[1] * 1000)
  end
  return table.concat(entries), table.concat(others)
end

local function load_session(key)
  local data = redis.pcall('GET', key)
  if type(data) ~= 'string' or #data == 0 then return '', '', '' end
  local first, n = string.byte(data, 1, 2)
  if first ~= FORMAT then
    local history, others = load_untimed(data)
    return history, others, ''
  end
  local stop = 2 + RESPONSE_BYTES * (n or 0)
  if #data < stop + 2 then return '', '', '' end
  local last = stop + 2 + SEEN_BYTES * struct.unpack('<I2', string.sub(data, stop + 1, stop + 2))
  local types = string.sub(data, last + 1)
  if #data < last or not each_type(types, function() end) then return '', '', '' end
  return string.sub(data, 3, stop), string.sub(data, stop + 3, last), types
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
    local gone = string.sub(history, weakest, weakest + RESPONSE_BYTES - 1)
    local place, _, at = place_of(gone), said(gone)
    history = string.sub(history, 1, weakest - 1) .. string.sub(history, weakest + RESPONSE_BYTES)
    if not find(history, place, RESPONSE_BYTES) then others = place .. hour_of(at) .. others end
  end
  return history, others
end

local function typed(name, places)
  if #places == 0 then return '' end
  return string.char(#name) .. name .. struct.pack('<I2', #places / PLACE_BYTES) .. places
end

-- Returns the items by type with one more of a type, as its latest or, if `before`, as its oldest unless it is there.
local function add_type(types, name, place, longest, before)
  local rest, places = {}, ''
  each_type(types, function(other, theirs)
    if other == name then places = theirs else rest[#rest + 1] = typed(other, theirs) end
  end)
  local is_full = #places >= PLACE_BYTES * longest
  if before and (is_full or find(places, place, PLACE_BYTES)) then return types end
  places = before and place .. places or without(places, place, PLACE_BYTES) .. place
  return table.concat(rest) .. typed(name, string.sub(places, -PLACE_BYTES * longest))
end

local function without_types(types, place)
  local rest = {}
  each_type(types, function(name, places)
    rest[#rest + 1] = typed(name, (without(places, place, PLACE_BYTES)))
  end)
  return table.concat(rest)
end

local function pack_session(history, others, types, longest_seen)
  others = string.sub(others, -SEEN_BYTES * longest_seen)
  local counts = struct.pack('<I2', #others / SEEN_BYTES)
  return string.char(FORMAT, #history / RESPONSE_BYTES) .. history .. counts .. others .. types
end

local function save_session(key, history, others, types, longest_history, longest_seen, ttl)
  history, others = fit_history(history, others, longest_history)
  redis.call('SET', key, pack_session(history, others, types, longest_seen), 'EX', ttl)
end
