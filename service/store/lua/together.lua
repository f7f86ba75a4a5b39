-- A library, after session.lua: counts of users who have bought two items, by their places, see together.py. Names of the
-- keys begin with a prefix: which they are is only known from the session.
local OTHERS, KEPT = 30, 60

local function number_of(place) return (struct.unpack('<I3', place)) end

local function ends(types, name) return string.find(types, '\n' .. name .. '\n', 1, true) end

local function count_one(prefix, item, other, by)
  local name = prefix .. item
  if tonumber(redis.call('ZINCRBY', name, by, other)) <= 0 then redis.call('ZREM', name, other) end
  if by > 0 and redis.call('ZCARD', name) > 2 * KEPT then redis.call('ZREMRANGEBYRANK', name, 0, -1 - KEPT) end
end

-- Count, by 1 or -1, a user who has an item and `places`, of which the latest count.
local function count_together(prefix, places, place, by)
  local item = number_of(place)
  redis.call('HINCRBY', prefix .. 'users', item, by)
  for at = math.max(1, #places - PLACE_BYTES * OTHERS + 1), #places, PLACE_BYTES do
    local other = number_of(string.sub(places, at, at + PLACE_BYTES - 1))
    if other ~= item then
      count_one(prefix, item, other, by)
      count_one(prefix, other, item, by)
    end
  end
end

-- Items by type with one more, as `add_type` has it; what ends a visit is counted beside the others of the type.
local function add_counted(types, name, place, longest, before, prefix, ending)
  local places = ''
  each_type(types, function(other, theirs) if other == name then places = theirs end end)
  local more = add_type(types, name, place, longest, before)
  if more ~= types and ends(ending, name) and not find(places, place, PLACE_BYTES) then
    count_together(prefix, places, place, 1)
  end
  return more
end

local function without_counted(types, place, prefix, ending)
  each_type(types, function(name, places)
    local others, found = without(places, place, PLACE_BYTES)
    if found and ends(ending, name) then count_together(prefix, others, place, -1) end
  end)
  return without_types(types, place)
end
