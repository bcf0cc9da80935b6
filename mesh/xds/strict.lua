-- Refuses REST calls whose JSON has a field that the contract has not: Envoy's transcoder would drop it without a word.
-- Two tables stand before this text, made from the contracts (mesh/xds/strict.py):
--   BINDINGS: {verb, pattern of the path, message of the body}, the more specific first
--   MESSAGES: message -> field -> message of its value; "" for what is not looked into; "{}..." for a map of these
-- What is not JSON at all passes: the transcoder says so itself.

local DEEPEST = 64
local MOST = 200000  -- values and quotes in a body: a worker of Envoy does nothing else meanwhile, 0.2 s at most

local steps
local value

-- Behind the string whose opening quote is at `at`; nil where it does not end.
local function behind_string(text, at)
  local from = at + 1
  while steps < MOST do
    steps = steps + 1
    local found = text:find('"', from, true)
    if not found then return nil end
    local before = found - 1
    while text:byte(before) == 92 do before = before - 1 end
    if (found - before) % 2 == 1 then return found + 1 end
    from = found + 1
  end
  return nil
end

local function behind_space(text, at)
  return (text:find("[^ \t\r\n]", at))
end

-- Each of these returns where the text goes on and, where there is one, the path of an unknown field; nil: not JSON.
local function object(text, at, kind, path, depth)
  local fields = MESSAGES[kind]
  local of_map = kind:sub(1, 2) == "{}" and kind:sub(3) or nil
  at = behind_space(text, at + 1)
  if at and text:byte(at) == 125 then return at + 1 end
  while at do
    if text:byte(at) ~= 34 then return nil end
    local finish = behind_string(text, at)
    if not finish then return nil end
    local name = text:sub(at + 1, finish - 2)
    local inner = of_map or ""
    if fields then
      inner = fields[name]
      if not inner then return finish, path .. name end
    end
    at = behind_space(text, finish)
    if not at or text:byte(at) ~= 58 then return nil end
    local unknown
    at, unknown = value(text, at + 1, inner, path .. name .. ".", depth + 1)
    if unknown then return at, unknown end
    at = at and behind_space(text, at)
    local mark = at and text:byte(at)
    if mark == 125 then return at + 1 end
    if mark ~= 44 then return nil end
    at = behind_space(text, at + 1)
  end
  return nil
end

local function array(text, at, kind, path, depth)
  at = behind_space(text, at + 1)
  if at and text:byte(at) == 93 then return at + 1 end
  while at do
    local unknown
    at, unknown = value(text, at, kind, path, depth + 1)
    if unknown then return at, unknown end
    at = at and behind_space(text, at)
    local mark = at and text:byte(at)
    if mark == 93 then return at + 1 end
    if mark ~= 44 then return nil end
    at = at + 1
  end
  return nil
end

value = function(text, at, kind, path, depth)
  at = behind_space(text, at)
  steps = steps + 1
  if not at or depth > DEEPEST or steps > MOST then return nil end
  local mark = text:byte(at)
  if mark == 123 then return object(text, at, kind, path, depth) end
  if mark == 91 then return array(text, at, kind, path, depth) end
  if mark == 34 then return behind_string(text, at) end
  local finish = select(2, text:find("^[%w%+%-%.]+", at))
  return finish and finish + 1
end

local function body_of(verb, path)
  for _, binding in ipairs(BINDINGS) do
    if binding[1] == verb and path:find(binding[2]) then return binding[3] end
  end
  return nil
end

local function refuse(handle, message, reason, detail)
  handle:streamInfo():dynamicMetadata():set("envoy.filters.http.lua", "answered", true)  -- as answers.py wants to know
  handle:respond(
    {[":status"] = "400", ["content-type"] = "application/json"},
    '{"code":3,"message":"' .. message .. '","details":[' ..
    '{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"' .. reason .. '","domain":"poi-mesh"}' ..
    detail .. ']}'
  )
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = (headers:get(":path") or ""):match("^[^?]*")
  local kind = body_of(headers:get(":method"), path)
  if not kind then return end
  local body = handle:body()
  if not body then return end
  steps = 0
  local _, unknown = value(body:getBytes(0, body:length()), 1, kind, "", 0)
  if unknown then
    refuse(handle, "unknown field: " .. unknown, "UNKNOWN_FIELD",
      ',{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"' .. unknown ..
      '","description":"there is no such field"}]}')
  elseif steps >= MOST then
    refuse(handle, "the body has too many values", "TOO_MANY_VALUES", "")
  end
end
