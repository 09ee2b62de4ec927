-- The part of the module dsvk that is written in Lua: where models lie, and text as it comes. It is compiled into dsvk.so,
-- which runs it with its table of functions, its own file name (nil where it is linked into a program), and what makes a function of an
-- op's name.
local dsvk, library, op_function = ...
local Model, Session = dsvk.Model, dsvk.Session
local SLICE = 50000 -- microseconds between two pieces of a stream

-- ---- arguments: what is wrong with them is said where the function was called ----

-- A value in a sentence.
local function shown(value) return type(value) == "string" and ("'%s'"):format(value) or tostring(value) end

-- For a function written here: raises, where it was called, unless `good`.
local function check(good, message, ...)
  if not good then error(message:format(...), 3) end
end

-- 2 and 2.0, as everywhere in Lua.
local function is_whole(value, least) return type(value) == "number" and math.tointeger(value) ~= nil and value >= least end

-- The metatable of an object of the module, or of another library, else an empty one.
local function meta_of(value)
  local meta = type(value) == "userdata" and getmetatable(value)
  return type(meta) == "table" and meta or {}
end

local function is_a(value, class) return meta_of(value).__index == class end

local function type_of(value) return meta_of(value).__name or type(value) end

-- What f(...) returns. What it raises is raised where the function that uses this was called.
local function call(f, ...)
  local results = table.pack(pcall(f, ...))
  if not results[1] then error(results[2], 3) end
  return table.unpack(results, 2, results.n)
end

-- ---- models ----

local function readable(path)
  local file = io and io.open(path, "rb")
  return file and file:close()
end

--- The folder of a model: "nano" is the small one that comes with the module (unless a folder has that name). It is looked for
--- as dsvk/nano beside dsvk.so and in the folders of package.path; nil, message, "IO" where it is in none of them. What takes the
--- path of a model asks here.
function dsvk.locate(path)
  if path ~= "nano" or readable("nano/config.json") then return path end
  local places = package.path:gsub("%.lua%f[;\0]", ".json")
  local folder = library and library:match("^(.*)[/\\]") or "."
  local config, tried = package.searchpath("dsvk/nano/config", folder .. "/?.json;" .. places)
  if config then return (config:gsub("[/\\]config%.json$", "")) end
  return nil, "nano, the model that comes with the module, was not found: " .. tried:gsub("\n%s*", ", "), "IO"
end

--- Every Vulkan device the loader shows, usable or not, the best first.
function dsvk.devices()
  local survey, message, code = dsvk.survey()
  if not survey then return nil, message, code end
  return survey.devices
end

-- ---- text as it comes ----

--- Decodes up to n tokens: `for piece, ids in session:stream(n, options) do`. Pieces are whole characters (sometimes none), and
--- the text of a stop is not among them; ids are the tokens they come from, as decode gives them. Raises what fails.
function Session.stream(session, n, options)
  check(is_a(session, Session), "stream: expected a dsvk.Session, got %s", type_of(session))
  check(is_whole(n, 0), "stream: expected how many tokens to decode, got %s", shown(n))
  check(options == nil or type(options) == "table", "stream: expected a table of options, got %s", shown(options))
  local begun, message = call(session.begin, session, nil, n, options)
  if not begun then error(message, 2) end
  local finished = false
  return function()
    while not finished do
      check(not session:closed(), "the session is closed")
      local piece, done, ids = session:poll(SLICE)
      if not piece then error(done, 2) end
      finished = done
      if piece ~= "" or ids[1] then return piece, ids end
    end
  end
end

--- A coroutine for schedulers: every resume does about options.budget microseconds of work (4000) towards being at `tokens`
--- (nil: as it stands) and n decoded tokens, and yields the text and ids that are new, often "" and {}. The last ones are
--- returned; so is a failure, as nil, message, code.
function Session.coroutine(session, tokens, n, options)
  check(is_a(session, Session), "coroutine: expected a dsvk.Session, got %s", type_of(session))
  check(is_whole(n, 0), "coroutine: expected how many tokens to decode, got %s", shown(n))
  check(options == nil or type(options) == "table", "coroutine: expected a table of options, got %s", shown(options))
  local sampling, budget = {}, 4000
  for name, value in pairs(options or {}) do
    if name == "budget" then budget = value else sampling[name] = value end
  end
  check(type(budget) == "number" and budget >= 0, "option 'budget': expected microseconds, got %s", shown(budget))
  local begun, message, code = call(session.begin, session, tokens, n, sampling)
  if not begun then return nil, message, code end
  return coroutine.create(function()
    while true do
      check(not session:closed(), "the session is closed")
      local piece, finished, ids = session:poll(budget)
      if not piece then return piece, finished, ids end
      if finished then return piece, ids end
      coroutine.yield(piece, ids)
    end
  end)
end

-- Where the earliest stop text begins, or nil.
local function first_stop(text, stops)
  local first
  for _, stop in ipairs(stops) do
    local at = text:find(stop, 1, true)
    if at and (not first or at < first) then first = at end
  end
  return first
end

-- How many bytes at the end of text may be the beginning of a stop text.
local function held_back(text, stops)
  local longest = 0
  for _, stop in ipairs(stops) do
    for n = math.min(#stop - 1, #text), longest + 1, -1 do
      if text:sub(-n) == stop:sub(1, n) then
        longest = n
        break
      end
    end
  end
  return longest
end

-- A function that returns the next piece of what a session is polled towards; nil at the end, nil, message, code on failure.
-- Both close the session.
local function pieces(session, stops)
  local held, finished = "", false
  return function()
    while not finished do
      local piece, done, code = session:poll(SLICE)
      if not piece then
        session:close()
        return nil, done, code
      end
      local text = held .. piece
      local at = first_stop(text, stops)
      local keep = at and at - 1 or done and #text or #text - held_back(text, stops)
      finished, held = done or at ~= nil, text:sub(keep + 1)
      if keep > 0 then return text:sub(1, keep) end
    end
    session:close()
  end
end

local sampling_options = { temperature = 1.0, top_p = 1.0, top_k = 0, min_p = 0.0 } -- with generate's defaults
local logit_options = { frequency_penalty = true, presence_penalty = true, logit_bias = true, mask = true, mask_after = true }
local generate_options = { max_tokens = true, stream = true, stop = true, bos = true, seed = true }

-- What decoding takes of generate's options.
local function sampling_of(options)
  local sampling = {}
  for name, default in pairs(sampling_options) do
    sampling[name] = options[name]
    if sampling[name] == nil then sampling[name] = default end
  end
  for name in pairs(logit_options) do sampling[name] = options[name] end
  sampling.seed = options.seed
  if sampling.seed == nil then sampling.seed = math.random(0) end
  return sampling
end

-- What is wrong with generate's own arguments, or nil.
local function wrong_with(prompt, options)
  if type(prompt) ~= "string" and type(prompt) ~= "table" then
    return ("prompt: expected text or an array of token ids, got %s"):format(shown(prompt))
  end
  if type(options) ~= "table" then return ("generate: expected a table of options, got %s"):format(shown(options)) end
  for name in pairs(options) do
    if not (sampling_options[name] or logit_options[name] or generate_options[name]) then
      return ("unknown option '%s'"):format(tostring(name))
    end
  end
  if options.max_tokens ~= nil and not is_whole(options.max_tokens, 0) then
    return ("option 'max_tokens': expected an integer from 0 on, got %s"):format(shown(options.max_tokens))
  end
  for _, name in ipairs { "stream", "bos" } do
    if options[name] ~= nil and type(options[name]) ~= "boolean" then
      return ("option '%s': expected true or false, got %s"):format(name, shown(options[name]))
    end
  end
  for _, stop in ipairs(type(options.stop) == "table" and options.stop or { options.stop }) do
    if type(stop) ~= "string" and not is_whole(stop, math.mininteger) then
      return ("option 'stop': expected texts or token ids, got %s"):format(shown(stop))
    end
  end
end

-- The ids generate starts from: a text's with the begin token in front unless bos is false; ids as they are.
local function prompt_tokens(config, tokenizer, prompt, bos)
  if type(prompt) == "table" then return prompt end
  local tokens, message, code = tokenizer:encode(prompt)
  if not tokens then return nil, message, code end
  if bos ~= false and config.bos_token_id >= 0 then table.insert(tokens, 1, config.bos_token_id) end
  return tokens
end

-- Ids and texts of options.stop, which may be one of either or a list of both; the model's own end token always stops.
local function stops_of(config, stop)
  local ids, texts = {}, {}
  if config.eos_token_id >= 0 then ids[1] = config.eos_token_id end
  for _, one in ipairs(type(stop) == "table" and stop or { stop }) do
    local list = type(one) == "string" and texts or ids
    if one ~= "" then list[#list + 1] = one end
  end
  return ids, texts
end

--- Continues a text: a string, or with stream = true an iterator of pieces of it: `for piece in model:generate(...) do`.
--- prompt: text (special tokens in it stay ordinary text) or ids. options: max_tokens (256), stream, temperature (1), top_p (1),
--- top_k, min_p, seed (drawn), stop (texts or ids, not part of the result), bos (true), and what session:decode takes to change
--- logits (frequency_penalty, presence_penalty, logit_bias, mask, mask_after). A context that fills up ends the text.
function Model.generate(model, prompt, options)
  if options == nil then options = {} end
  check(is_a(model, Model), "generate: expected a dsvk.Model, got %s", type_of(model))
  local wrong = wrong_with(prompt, options)
  check(not wrong, "%s", wrong)
  local config, message, code = call(model.config, model)
  if not config then return nil, message, code end
  local tokenizer, tokens, session, begun
  tokenizer, message, code = model:tokenizer()
  if not tokenizer then return nil, message, code end
  tokens, message, code = prompt_tokens(config, tokenizer, prompt, options.bos)
  if not tokens then return nil, message, code end
  if #tokens == 0 then return nil, "the prompt has no tokens to continue from", "INVALID" end
  if #tokens > config.max_positions then
    return nil, ("%d tokens are more than the context of %d"):format(#tokens, config.max_positions), "LIMIT"
  end
  local sampling, texts, ok = sampling_of(options), nil, nil
  sampling.stop, texts = stops_of(config, options.stop)
  local n = math.min(options.max_tokens or 256, config.max_positions - #tokens)
  session, message, code = model:session { context = #tokens + n }
  if not session then return nil, message, code end
  ok, begun, message, code = pcall(session.begin, session, tokens, n, sampling)
  if not (ok and begun) then session:close() end
  if not ok then error(begun, 2) end
  if not begun then return nil, message, code end
  local next_piece = pieces(session, texts)
  if options.stream then
    return function()
      local piece, failure = next_piece()
      if not piece and failure then error(failure, 2) end
      return piece
    end, nil, nil, session -- a loop that is left early closes the session
  end
  local all, piece = {}, nil
  repeat
    piece, message, code = next_piece()
    all[#all + 1] = piece
  until not piece
  if message then return nil, message, code end
  return table.concat(all)
end

-- ---- conversations ----

local chat = dsvk.chat
local DEEPEST = 64

-- A value as JSON text; where: its place, for a message. Keys are sorted, so that the same value is the same text each time.
local function to_json(value, where, depth)
  local kind = math.type(value) or type(value)
  if kind == "string" then
    return '"' .. value:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
  elseif kind == "boolean" then
    return tostring(value)
  elseif kind == "integer" then
    return ("%d"):format(value)
  elseif kind == "float" and value - value == 0 then -- neither infinite nor NaN
    return ("%.17g"):format(value)
  elseif kind ~= "table" then
    error(("%s: a %s is no JSON"):format(where, kind == "float" and tostring(value) or kind), 0)
  elseif depth > DEEPEST then
    error(("%s: nested deeper than %d"):format(where, DEEPEST), 0)
  end
  local parts, n = {}, #value
  for key in pairs(value) do
    if n > 0 and not (math.type(key) == "integer" and key >= 1 and key <= n) or n == 0 and type(key) ~= "string" then
      error(("%s: the key %s in a %s"):format(where, tostring(key), n > 0 and "list" or "table of names"), 0)
    end
    if n == 0 then parts[#parts + 1] = key end
  end
  table.sort(parts)
  for i = 1, math.max(n, #parts) do
    local key = parts[i]
    local item = to_json(value[key or i], ("%s[%s]"):format(where, key or i), depth + 1)
    parts[i] = key and to_json(key) .. ": " .. item or item
  end
  return (n > 0 and "[%s]" or "{%s}"):format(table.concat(parts, ", "))
end

local texts_too = { messages = true, context = true, tools = true, response_format = true } -- may be JSON text
local chat_options = { thinking_mode = true, drop_thinking = true, reasoning_effort = true, add_bos = true, context = true, tools = true,
  response_format = true, revision = true, replay = true }

-- The JSON that the library reads; it checks every value.
local function conversation(messages, options)
  if options ~= nil and type(options) ~= "table" then error(("chat: expected a table of options, got %s"):format(shown(options)), 3) end
  local given, parts = { messages = messages }, {}
  for name, value in pairs(options or {}) do
    if not chat_options[name] then error(("unknown option '%s'"):format(tostring(name)), 3) end
    given[name] = value
  end
  for name, value in pairs(given) do
    local empty = type(value) == "table" and next(value) == nil -- a list or not, that of nothing is nothing
    if texts_too[name] and type(value) == "string" then
      parts[#parts + 1] = ('"%s": %s'):format(name, value)
    elseif not empty then
      local fine, text = pcall(to_json, value, name, 1)
      if not fine then error(text, 3) end
      parts[#parts + 1] = ('"%s": %s'):format(name, text)
    elseif name == "messages" then
      parts[#parts + 1] = '"messages": []'
    end
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local encode, encode_ids = chat.encode, chat.encode_ids

--- The prompt of a conversation as text. messages: a list of { role =, content = }, or JSON text of one, as tools and what else has
--- keys in an order of its own may be. An empty table inside is an object.
function chat.encode(messages, options) return encode(conversation(messages, options)) end

--- The prompt of a conversation as ids: special strings in messages stay ordinary text.
function chat.encode_ids(tokenizer, messages, options)
  check(is_a(tokenizer, dsvk.Tokenizer), "encode_ids: expected a dsvk.Tokenizer, got %s", type_of(tokenizer))
  local ids, message, code = call(encode_ids, tokenizer, conversation(messages, options))
  return ids, message, code -- no tail call: errors are raised where this function was called
end

-- ---- traces ----

--- How many of the tokens chose each expert: a list for each layer, of expert i at i + 1.
function dsvk.Trace.expert_load(self)
  check(is_a(self, dsvk.Trace), "expert_load: expected a dsvk.Trace, got %s", type_of(self))
  local loads = {}
  while true do
    local layer = ("layers.%d.router."):format(#loads)
    local chosen = call(self.read, self, layer .. "experts")
    if not chosen then return loads end
    local counts = {}
    for i = 1, self:info(layer .. "logits").shape[2] do counts[i] = 0 end
    for _, expert in ipairs(chosen) do counts[expert + 1] = counts[expert + 1] + 1 end
    loads[#loads + 1] = counts
  end
end

-- ---- ops ----

--- dsvk.ops.NAME({ x = tensor, ... }, options): every op of dsvk.op_table() as a function of its arguments, on their device.
dsvk.ops = {}
for _, op in ipairs(assert(dsvk.op_table())) do dsvk.ops[op.name] = op_function(op.name) end

-- For Model.trace: the ids of a text.
return function(model, text)
  local tokenizer
  local config, message, code = model:config()
  if not config then return nil, message, code end
  tokenizer, message, code = model:tokenizer()
  if not tokenizer then return nil, message, code end
  return prompt_tokens(config, tokenizer, text)
end
