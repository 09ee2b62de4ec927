-- Devices, models, tokenizers: opening, asking, closing; wrong arguments and where they are said; faults A01, A02, A03, A14.
local dsvk = require "dsvk"

local function fails(word, call, ...)
  local ok, message = pcall(call, ...)
  assert(not ok, "no error was raised")
  assert(tostring(message):find(word, 1, true), ("%q does not name %q"):format(tostring(message), word))
end

-- The message of an error has the line of the call, in this file.
local function fails_here(word, call)
  fails(word, call)
  local _, message = pcall(call)
  local where = debug.getinfo(call, "S")
  local line = tonumber(message:match("_spec%.lua:(%d+): "))
  assert(line and line >= where.linedefined and line <= where.lastlinedefined, message)
end

local function refused(code, word, ...)
  local value, message, got = ...
  assert(value == nil and got == code, ("expected nil and %s, got %s, %s, %s"):format(code, value, message, got))
  assert(message:find(word, 1, true), ("%q does not name %q"):format(message, word))
end

describe("handles", function()
  local model

  setup(function() model = assert(dsvk.model("nano", { budgets = { cache = 1 << 30 } })) end)
  teardown(function() model:close() end)

  it("says what it is", function()
    assert(dsvk.version:match("^%d+%.%d+%.%d+$"))
    local devices = assert(dsvk.devices())
    assert(#devices >= 1 and type(devices[1].name) == "string")
    assert(model:device():info().uuid and model:device():memory().weights.used > 0)
    assert(model:config().n_layers > 1 and model:report().tensors > 1)
    assert(model:vocab_size() == model:tokenizer():vocab_size())
    assert(tostring(model):find("dsvk.Model", 1, true))
    assert(model:device():memory().cache.budget == 1 << 30)
  end)

  it("plans and verifies without loading", function()
    assert(dsvk.plan("nano", { context = 256 }).purposes.weights > 0)
    local calls = 0
    assert(dsvk.verify("nano", { progress = function() calls = calls + 1 end }).tensors > 1)
    assert(calls > 0)
  end)

  it("profiles", function()
    local device = model:device()
    local session <close> = assert(model:session { context = 64 })
    assert(device:profile_begin())
    assert(session:sync { 1, 2, 3 })
    local report = assert(device:profile_end())
    assert(report.dispatches > 0 and report.ops[1].name)
  end)

  it("encodes any bytes and gives them back", function()
    local tokenizer = model:tokenizer()
    for _, text in ipairs { "", "To be, or not to be", "a\0b", "\xff\xfe", "Grüße, 世界 🙂" } do
      assert(tokenizer:decode(assert(tokenizer:encode(text))) == text)
    end
    local begin = tokenizer:id("<｜begin▁of▁sentence｜>")
    assert(begin and tokenizer:is_special(begin) and not tokenizer:is_special(300))
    local think = tokenizer:id("<think>")
    assert(tokenizer:is_added(begin) and tokenizer:is_added(think) and not tokenizer:is_special(think))
    assert(not tokenizer:is_added(300) and not tokenizer:is_added(-1))
    assert(#tokenizer:encode("<｜begin▁of▁sentence｜>") > 1)
    assert(#tokenizer:encode("<｜begin▁of▁sentence｜>", { special = true }) == 1)
    assert(tokenizer:id("no such token at all") == nil)
  end)

  it("streams whole characters", function()
    local tokenizer = model:tokenizer()
    local decoder <close> = tokenizer:decoder()
    local text = ""
    for _, id in ipairs(tokenizer:encode("世界🙂")) do
      local piece = assert(decoder:push(id))
      assert(utf8.len(piece))
      text = text .. piece
    end
    assert(text .. decoder:finish() == "世界🙂")
  end)

  it("is a function and a method alike", function()
    local session <close> = assert(dsvk.Model.session(model, { context = 64 }))
    assert(dsvk.Session.sync(session, { 5 }) and dsvk.Session.position(session) == 1)
    assert(dsvk.Session.model(session) == model)
  end)

  it("test_A01_ names what is wrong", function()
    fails("unknown option 'contxt'", model.session, model, { contxt = 5 })
    fails("'context'", model.session, model, { context = -1 })
    fails("'context'", model.session, model, { context = 1.5 })
    fails("table expected", model.session, model, 5)
    fails("'cache'", dsvk.model, "nano", { cache = "bf16" })
    fails("'progress'", dsvk.model, "nano", { progress = 5 })
    fails("unknown option 'weight'", dsvk.device, nil, { budgets = { weight = 5 } })
    fails("device", dsvk.device, {})
    fails("dsvk.Model expected", dsvk.Model.config, model:device())
    fails("bad argument #1 to 'dsvk.model' (string expected, got no value)", dsvk.model)
    fails("option 'budgets': expected a table, got 5", dsvk.model, "nano", { budgets = 5 })
    fails("option 'budgets': unknown option 'weight'", dsvk.model, "nano", { budgets = { weight = 5 } })
    fails("option 'cache': expected an integer 0 .. 9223372036854775807, got '1'", dsvk.device, nil, { budgets = { cache = "1" } })
    fails("option 'device': expected a dsvk.Device, got 'x'", dsvk.plan, "nano", { device = "x" })
    fails("budgets", dsvk.model, "nano", { device = model:device(), budgets = {} })
    refused("INVALID", "no device", dsvk.device("no device of that name"))
    refused("IO", "no model", dsvk.model("no model here"))
    refused("INVALID", "positions", model:session { context = 1 << 40 })
    for _, open in ipairs { dsvk.model, dsvk.plan, dsvk.verify, dsvk.tokenizer } do
      fails("zero bytes", open, "nano\0garbage")
      refused("INVALID", "empty", open(""))
    end
    fails("option 'cache_dir': expected a string without zero bytes, got 'a", dsvk.device, nil, { cache_dir = "a\0b" })
  end)

  it("says where it has looked for nano", function()
    local search = package.searchpath
    package.searchpath = function() return nil, "no file 'here/dsvk/nano/config.json'\n\tno file 'there/dsvk/nano/config.json'" end
    local ok, message = pcall(function()
      for _, open in ipairs { dsvk.locate, dsvk.model, dsvk.plan, dsvk.verify, dsvk.tokenizer } do
        refused("IO", "no file 'here/dsvk/nano/config.json', no file 'there/dsvk/nano/config.json'", open("nano"))
      end
      assert(dsvk.locate("elsewhere") == "elsewhere")
    end)
    package.searchpath = search
    assert(ok, message)
  end)

  it("test_A01_ says what is wrong where the function was called", function()
    local used = model:device():memory().cache.used
    collectgarbage("stop")
    for word, call in pairs {
      ["prompt: expected text or an array of token ids, got nil"] = function() model:generate() end,
      ["option 'max_tokens': expected an integer from 0 on, got 1.5"] = function() model:generate("x", { max_tokens = 1.5 }) end,
      ["option 'max_tokens': expected an integer from 0 on, got '3'"] = function() model:generate("x", { max_tokens = "3" }) end,
      ["option 'stop': expected texts or token ids, got true"] = function() model:generate("x", { stop = true }) end,
      ["option 'stop': expected texts or token ids, got 5.5"] = function() model:generate("x", { stop = { 5, "a", 5.5 } }) end,
      ["option 'stream': expected true or false, got 1"] = function() model:generate("x", { stream = 1 }) end,
      ["option 'temperature': expected a number, got 'hot'"] = function() model:generate("x", { temperature = "hot" }) end,
      ["option 'seed': expected an integer, got 'a'"] = function() model:generate("x", { seed = "a" }) end,
      ["unknown option 'max_token'"] = function() model:generate("x", { max_token = 5 }) end,
      ["expected a table of options, got 5"] = function() model:generate("x", 5) end,
      ["tokens[2]: expected an integer, got '5'"] = function() model:generate({ 5, "5" }) end,
      ["expected a dsvk.Model, got dsvk.Device"] = function() dsvk.Model.generate(model:device(), "x") end,
    } do
      fails_here(word, call)
    end
    collectgarbage("restart")
    assert(model:device():memory().cache.used == used, "a refused call leaves its session open")
    refused("INVALID", "no tokens", model:generate {})
    local session <close> = assert(model:session { context = 64 })
    assert(session:sync { 5 })
    local tokenizer = model:tokenizer()
    local gone = { tokenizer = assert(dsvk.tokenizer("nano")), trace = assert(model:trace { 5 }), session = assert(model:session()) }
    assert(gone.session:sync { 5 })
    gone.stream = gone.session:stream(5)
    assert(gone.tokenizer:close() and gone.trace:close() and gone.session:close())
    for word, call in pairs {
      ["stream: expected a dsvk.Session, got dsvk.Model"] = function() dsvk.Session.stream(model, 5) end,
      ["stream: expected how many tokens to decode, got nil"] = function() session:stream() end,
      ["unknown option 'x'"] = function() session:stream(5, { x = 1 }) end,
      ["coroutine: expected a dsvk.Session, got number"] = function() dsvk.Session.coroutine(5, nil, 5) end,
      ["option 'budget': expected microseconds, got 'x'"] = function() session:coroutine(nil, 2, { budget = "x" }) end,
      ["option 'budget': expected microseconds, got -1"] = function() session:coroutine(nil, 2, { budget = -1 }) end,
      ["tokens: expected an array of token ids, got number"] = function() session:coroutine(5, 2) end,
      ["dsvk.Model expected, got nil"] = function() dsvk.Model.trace(nil, "x") end,
      ["tokens: expected an array of token ids, got nil"] = function() model:trace(nil) end,
      ["unknown option 'chunk'"] = function() model:trace("x", { chunk = 1 }) end,
      ["encode_ids: expected a dsvk.Tokenizer, got nil"] = function() dsvk.chat.encode_ids(nil, {}) end,
      ["the tokenizer is closed"] = function() dsvk.chat.encode_ids(gone.tokenizer, {}) end,
      ["chat: expected a table of options, got 5"] = function() dsvk.chat.encode({}, 5) end,
      ["expert_load: expected a dsvk.Trace, got nil"] = function() dsvk.Trace.expert_load() end,
      ["the trace is closed"] = function() gone.trace:expert_load() end,
      ["the session is closed"] = function() gone.stream() end,
      ["expected how many tokens to decode, got -1"] = function() session:begin({ 1 }, -1) end,
      ["expected how many tokens to decode, got -2"] = function() session:decode(-2) end,
      ["expected how many tokens to decode, got 1.5"] = function() model:decode({ session }, 1.5) end,
      ["expected how many tokens to decode, got 'x'"] = function() session:decode("x") end,
      ["expected how many tokens to decode, got nil"] = function() session:decode() end,
      ["1099511627776 is no token id (32 bits)"] = function() tokenizer:decoder():push(1 << 40) end,
      ["-2147483649 is no token id (32 bits)"] = function() dsvk.chat.parser():push(tokenizer, -(1 << 31) - 1) end,
      ["matmul: expected a table of arguments, got nil"] = function() dsvk.ops.matmul() end,
      ["matmul: no argument is a tensor, so give a device"] = function() dsvk.ops.matmul { x = io.stdout } end,
      ["rope_table: device: expected a dsvk.Device, got 5"] = function() dsvk.ops.rope_table { device = 5 } end,
      ["x: expected a tensor or a number, got string"] = function() dsvk.ops.topk { device = model:device(), x = "2" } end,
    } do
      fails_here(word, call)
    end
  end)

  it("test_A02_ refuses closed handles", function()
    local device = assert(dsvk.device())
    local own = assert(dsvk.model("nano", { device = device }))
    local tokenizer, session = own:tokenizer(), assert(own:session { context = 64 })
    local decoder = tokenizer:decoder()
    assert(session:close() and session:closed() and session:close())
    fails("the session is closed", session.sync, session, { 1 })
    assert(own:close() and own:closed() and own:close())
    fails("the model is closed", own.config, own)
    fails("the model is closed", own.session, own)
    fails("the model is closed", tokenizer.encode, tokenizer, "x")
    fails("the model is closed", decoder.push, decoder, 1)
    assert(tokenizer:closed() and decoder:closed() and tostring(decoder):find("closed", 1, true))
    tokenizer = assert(dsvk.tokenizer("nano"))
    local first, second = tokenizer:decoder(), tokenizer:decoder()
    assert(not tokenizer:closed() and not first:closed() and not tostring(tokenizer):find("closed", 1, true))
    assert(first:close() and first:closed() and not second:closed() and not tokenizer:closed())
    assert(tokenizer:close() and tokenizer:closed() and second:closed() and tostring(tokenizer):find("closed", 1, true))
    assert(device:close() and device:closed() and device:close())
    fails("the device is closed", device.memory, device)
    fails("the device is closed", dsvk.model, "nano", { device = device })
    assert(tostring(device):find("closed", 1, true))
  end)

  it("test_A03_ sessions keep their model", function()
    local own = assert(dsvk.model("nano", { device = model:device() }))
    local session <close> = assert(own:session { context = 64 })
    own:close()
    own = nil
    collectgarbage()
    assert(session:sync("Romeo") and #session:decode(3) == 3)
  end)

  it("test_A14_ closes at the end of a block", function()
    local kept
    do
      local session <close> = assert(model:session { context = 64 })
      kept = session
    end
    assert(kept:closed())
    pcall(function()
      local session <close> = assert(model:session { context = 64 })
      kept = session
      error("leave")
    end)
    assert(kept:closed())
  end)
end)
