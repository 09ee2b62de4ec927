-- Sessions: sync, decode, logits, batches, streams, polling, callbacks; faults A02, A04, A05, A12, T11.
local dsvk = require "dsvk"

local function same(a, b)
  assert(table.concat(a, " ") == table.concat(b, " "), table.concat(a, " ") .. " is not " .. table.concat(b, " "))
end

local function refused(code, word, value, message, got)
  assert(value == nil and got == code, ("expected nil and %s, got %s, %s, %s"):format(code, value, message, got))
  assert(message:find(word, 1, true), ("%q does not name %q"):format(message, word))
end

local function argmax(row)
  local best = 1
  for i = 2, #row do if row[i] > row[best] then best = i end end
  return best - 1
end

describe("sessions", function()
  local model, tokenizer, session, prompt

  setup(function()
    model = assert(dsvk.model("nano", { max_chunk = 64 }))
    tokenizer = assert(model:tokenizer())
    prompt = tokenizer:encode("ROMEO:\nO, she doth teach the torches to burn bright!")
  end)
  before_each(function()
    if session then session:close() end
    session = assert(model:session { context = 200 })
  end)
  teardown(function()
    session:close()
    model:close()
  end)

  it("decodes what its logits say", function()
    assert(session:sync(prompt))
    local row = assert(session:logits())
    assert(#row == model:vocab_size())
    local ids = assert(session:decode(4))
    assert(#ids == 4 and ids[1] == argmax(row))
    assert(session:position() == #prompt + 4 and session:context() == 200)
    same(session:tokens(), table.move(ids, 1, 4, #prompt + 1, table.move(prompt, 1, #prompt, 1, {})))
    assert(session:memory().pages > 0)
  end)

  it("takes whole numbers of either kind, and none to decode", function()
    assert(session:sync(prompt))
    same(session:decode(0), {})
    same(model:decode({ session }, 0)[1], {})
    for _ in session:stream(0) do error("nothing comes") end
    assert(session:position() == #prompt)
    local ids = session:decode(2, { temperature = 3, seed = -1 })
    session:sync(prompt)
    same(model:decode({ session }, 2.0, { temperature = 3.0, seed = -1.0 })[1], ids)
    assert(session:begin(prompt, 2.0, { temperature = 3, seed = -1 }))
    repeat local _, done = session:poll(1e6) until done
    same(session:tokens(), table.move(ids, 1, 2, #prompt + 1, table.move(prompt, 1, #prompt, 1, {})))
    refused("LIMIT", tostring(#prompt + 2 + (1 << 40)), session:decode(1 << 40))
    assert(model:generate("x", { max_tokens = 2.0, stop = { 5.0 } }))
  end)

  it("takes text where tokens are wanted", function()
    assert(session:sync("Romeo, wherefore"))
    same(session:tokens(), tokenizer:encode("Romeo, wherefore"))
  end)

  it("goes back and forth", function()
    assert(session:sync(prompt))
    local first = session:decode(6)
    assert(session:sync("Something else"))
    assert(session:sync(prompt))
    same(session:decode(6), first)
  end)

  it("evaluates rows", function()
    local rows, mtp = assert(session:evaluate({ 5, 6, 7 }, { chunk = 2 }))
    assert(#rows == 3 and #rows[3] == model:vocab_size() and mtp == nil)
    local pairs_of <close> = assert(model:session { context = 64, mtp = true })
    rows, mtp = assert(pairs_of:evaluate({ 5, 6, 7 }, { mtp = true }))
    assert(#rows == 3 and #mtp == 3 and mtp[1][1] ~= mtp[1][1] and mtp[2][1] == mtp[2][1])
    assert(#pairs_of:mtp_logits() == model:vocab_size())
  end)

  it("decodes many sessions in one batch", function()
    local other <close> = assert(model:session { context = 200 })
    local options = { temperature = 0.9, seed = 3 }
    assert(session:sync(prompt) and other:sync("JULIET:"))
    local alone = { session:decode(5, options), other:decode(5, options) }
    assert(session:sync(prompt) and other:sync("JULIET:"))
    local rows = assert(model:decode({ session, other }, 5, options))
    same(rows[1], alone[1])
    same(rows[2], alone[2])
    refused("INVALID", "session 1 of the batch is its session 0", model:decode({ session, session }, 1))
    assert(not pcall(model.decode, model, { session, 5 }, 1))
    assert(not pcall(model.decode, model, { session, other }, 1, { seed = { 1 } }))
  end)

  it("test_A02_ refuses another model's sessions", function()
    local stranger <close> = assert(dsvk.model("nano", { device = model:device(), max_chunk = 64 }))
    local other <close> = assert(stranger:session { context = 64 })
    assert(session:sync(prompt) and other:sync(prompt))
    refused("INVALID", "sessions[1] belongs to another model", model:decode({ other }, 1))
    refused("INVALID", "sessions[2] belongs to another model", model:decode({ session, other }, 1))
    assert(session:position() == #prompt and other:position() == #prompt)
  end)

  it("test_A05_ keeps the sessions of a batch while it runs", function()
    local list, refusals = { assert(model:session { context = 64 }), assert(model:session { context = 64 }) }, 0
    assert(list[1]:sync { 5 } and list[2]:sync { 6 })
    local rows = assert(model:decode(list, 3, { mask = function(_, i)
      if list[i] then
        refused("BUSY", "in use", list[i]:close())
        getmetatable(list[i]).__gc(list[i])
        refusals = refusals + 1
      else
        collectgarbage()
      end
      list[i] = nil
      return { 40 + i }
    end }))
    same(rows[1], { 41, 41, 41 })
    same(rows[2], { 42, 42, 42 })
    assert(refusals == 2)
    list = { assert(model:session { context = 64 }) }
    assert(list[1]:sync { 5 })
    assert(not pcall(model.decode, model, list, 3, { mask = function() error("enough") end }))
    assert(list[1]:close(), "a batch that failed holds no session")
  end)

  it("stops at a stop", function()
    assert(session:sync(prompt))
    local ids = session:decode(8)
    session:sync(prompt)
    local cut = session:decode(8, { stop = { ids[3] } })
    assert(#cut <= 3 and cut[#cut] == ids[3])
  end)

  it("streams the same text", function()
    assert(session:sync(prompt))
    local ids = session:decode(30)
    session:sync(prompt)
    local text, streamed = "", {}
    for piece, new in session:stream(30) do
      text = text .. piece
      table.move(new, 1, #new, #streamed + 1, streamed)
    end
    same(streamed, ids)
    assert(text == tokenizer:decode(ids))
    session:sync(prompt)
    text = ""
    for piece in session:stream(30, { stop = { ids[5] } }) do text = text .. piece end
    assert(text == tokenizer:decode { table.unpack(ids, 1, #text > 0 and session:position() - #prompt - 1 or 0) })
    for _ in session:stream(20) do break end
    assert(session:sync(prompt), "a stream may be left")
    assert(not pcall(session.stream, session, 1000), "more than the context")
  end)

  it("is polled, a layer at a time when there is no time", function()
    assert(session:evaluate(prompt, { chunk = 1 }))
    local ids = session:decode(6)
    session:sync("somewhere else")
    assert(session:begin(prompt, 6))
    local polls, got, text, finished = 0, {}, "", false
    while not finished do
      local before = session:position()
      local piece, done, new = session:poll(0)
      finished, text, polls = done, text .. assert(piece, done), polls + 1
      table.move(new, 1, #new, #got + 1, got)
      assert(polls == 1 or session:position() <= before + 1, "at most one token per poll")
    end
    assert(polls == (#prompt + 6) * (model:config().n_layers + 1) + 6)
    same(got, ids)
    assert(text == tokenizer:decode(ids))
    for _, budget in ipairs { 1000, 0.5, 1e300, 2.0 ^ 63, math.huge } do
      local piece, done, new = session:poll(budget)
      assert(piece == "" and done and #new == 0)
    end
    for _, budget in ipairs { -1, -0.5, 0 / 0 } do
      local ok, message = pcall(session.poll, session, budget)
      assert(not ok and message:find(("expected microseconds, got %.14g"):format(budget), 1, true), message)
    end
  end)

  it("polls more when there is time", function()
    assert(session:begin(prompt, 10))
    local polls = 0
    repeat
      polls = polls + 1
      local piece, done = session:poll(10000000)
      assert(piece, done)
    until done
    assert(polls == 1)
  end)

  it("runs as a coroutine", function()
    assert(session:sync(prompt))
    local ids = session:decode(8)
    local co = assert(session:coroutine(prompt, 8, { budget = 1 }))
    local got, resumes = {}, 0
    while coroutine.status(co) ~= "dead" do
      local ok, piece, new = coroutine.resume(co)
      assert(ok and piece, piece)
      table.move(new, 1, #new, #got + 1, got)
      resumes = resumes + 1
    end
    same(got, ids)
    assert(resumes >= 8)
    refused("LIMIT", tostring(#prompt + 1000), session:coroutine(prompt, 1000))
  end)

  it("generates text", function()
    local options = { max_tokens = 20, seed = 11, temperature = 0.8 }
    local whole = assert(model:generate("ROMEO:", options))
    local text = ""
    options.stream = true
    for piece in model:generate("ROMEO:", options) do text = text .. piece end
    assert(text == whole and #whole > 10)
    local stop = whole:sub(5, 8)
    local cut = model:generate("ROMEO:", { max_tokens = 20, seed = 11, temperature = 0.8, stop = { stop } })
    assert(cut == whole:sub(1, whole:find(stop, 1, true) - 1))
    assert(not pcall(model.generate, model, "x", { max_token = 5 }))
    local used = model:device():memory().cache.used
    for _ in model:generate("ROMEO:", options) do break end
    assert(model:device():memory().cache.used == used, "a loop that is left closes its session")
  end)

  it("changes logits, and lets a function say what may come", function()
    assert(session:sync(prompt))
    local plain = session:decode(8)
    local function at_prompt(options)
      assert(session:sync(prompt))
      return assert(session:decode(8, options))
    end
    same(at_prompt { logit_bias = { [77] = 1000 } }, { 77, 77, 77, 77, 77, 77, 77, 77 })
    assert(at_prompt { presence_penalty = 100 }[2] ~= at_prompt { logit_bias = { [77] = 1000 }, presence_penalty = 0 }[2])
    local told = {}
    local function mask(ids, i)
      table.move(ids, 1, #ids, #told + 1, told)
      return #told % 2 == 0 and { 40, 41 } or string.pack("<I4I4", 1 << 5, 0) .. ("\0"):rep(model:vocab_size() // 8 - 8)
    end
    local ids = at_prompt { mask = mask, temperature = 1 }
    same(told, table.move(ids, 1, 7, 1, {}))
    for i, id in ipairs(ids) do assert(i % 2 == 0 and id == 5 or id == 40 or id == 41, id) end
    told = {}
    assert(session:begin(prompt, 8, { mask = mask, temperature = 1 }))
    local polled, done, new = {}, false, nil
    while not done do
      _, done, new = session:poll(3000)
      table.move(new, 1, #new, #polled + 1, polled)
    end
    same(polled, ids)
    same(at_prompt { mask = function() end }, plain)
    told = {}
    local other <close> = assert(model:session { context = 200 })
    assert(session:sync(prompt) and other:sync(prompt))
    local seen = {}
    local rows = assert(model:decode({ session, other }, 3, { mask = function(_, i)
      seen[i] = (seen[i] or 0) + 1
      return { 40 + i }
    end }))
    same(rows[1], { 41, 41, 41 })
    same(rows[2], { 42, 42, 42 })
    same(seen, { 3, 3 })
    local wake = 1
    for i = 2, 6 do if plain[i] ~= plain[1] then wake = i break end end
    local woken = at_prompt { mask = function() return { 9 } end, mask_after = plain[wake] }
    assert(woken[wake] == plain[wake] and woken[wake + 1] == 9 and woken[8] == 9)
    assert(session:sync(prompt))
    refused("INVALID", "allows no token", session:decode(3, { mask = function() return {} end }))
    for _, case in ipairs { { function() error("stop here", 0) end, "stop here" }, { function() return { -1 } end, "no token id" },
      { function() return "short" end, "5 bytes" }, { function() return 7 end, "array" } } do
      assert(session:sync(prompt))
      local ok, raised = pcall(session.decode, session, 3, { mask = case[1] })
      assert(not ok and raised:find(case[2], 1, true), raised)
    end
    assert(session:sync(prompt))
    same(session:decode(8), plain)
    assert(not pcall(session.decode, session, 1, { mask = 3 }) and not pcall(session.decode, session, 1, { logit_bias = { x = 1 } }))
  end)

  it("refuses with a code", function()
    refused("INVALID", "9999", session:sync { 9999 })
    refused("STATE", "no tokens", session:decode(3))
    refused("STATE", "no logits", session:logits())
    refused("STATE", "goal", session:poll(100))
    refused("INVALID", "temperature", session:begin(prompt, 1, { temperature = -1 }))
    refused("INVALID", "mtp", session:mtp_logits())
    assert(session:sync(prompt))
    refused("INVALID", "top_p", session:decode(3, { top_p = 2 }))
    for _, call in ipairs {
      function() session:sync { "5" } end, function() session:sync { 1 << 40 } end, function() session:sync { 1.5 } end,
      function() session:sync(5) end, function() session:decode(-1) end, function() session:decode(3, { tmp = 1 }) end,
      function() session:decode(3, { seed = "x" }) end, function() session:decode(3, { stop = 5 }) end,
      function() session:poll(-1) end, function() session:begin(prompt, -1) end,
    } do
      assert(not pcall(call))
    end
    for word, call in pairs {
      ["a table with [2] and without [1]"] = function() session:sync { [2] = 5 } end,
      ["a table with ['x'] and without [1]"] = function() session:sync { x = 5 } end,
      ["items are made by a metatable"] = function() session:sync(setmetatable({}, { __index = prompt })) end,
      ["items are made by"] = function() session:sync(setmetatable({ 5 }, { __len = function() return 3 end })) end,
      ["tokens[1]: expected an integer, got '5'"] = function() session:sync { "5" } end,
      ["option 'temperature': expected a number, got '1'"] = function() session:decode(1, { temperature = "1" }) end,
      ["expected ids and numbers, got '2' for id 5"] = function() session:decode(1, { logit_bias = { [5] = "2" } }) end,
      ["expected ids and numbers, got the id '5'"] = function() session:decode(1, { logit_bias = { ["5"] = 2 } }) end,
    } do
      local ok, message = pcall(call)
      assert(not ok and message:find(word, 1, true), message)
    end
    assert(session:position() == #prompt)
    assert(session:sync(setmetatable({ 5, 6 }, { __index = table })), "a list may have methods")
  end)

  it("test_T11_ refuses more than the context", function()
    local long = {}
    for i = 1, 201 do long[i] = 5 end
    refused("LIMIT", "201", session:sync(long))
    assert(session:sync(prompt))
    refused("LIMIT", "200", session:decode(200))
    refused("LIMIT", "200", session:begin(prompt, 200))
  end)

  it("test_A04_A05_ is busy inside its own callback", function()
    local inner, own, seen
    own = assert(model:session { context = 200, progress = function()
      if seen then return end
      seen = { own:decode(1) }
      inner = { own:close() }
      assert(not own:closed())
      refused("BUSY", "in use", own:begin(prompt, 1))
    end })
    assert(own:begin(prompt, 1))
    assert(own:poll(0))
    refused("BUSY", "another call", table.unpack(seen, 1, 3))
    refused("BUSY", "in use", table.unpack(inner, 1, 3))
    assert(own:sync(prompt) and own:close())
  end)

  it("test_A12_ passes a callback's error on", function()
    local what
    local own <close> = assert(model:session { context = 200, progress = function(stage, done, total)
      assert(type(stage) == "string" and done <= total)
      if what then what() end
    end })
    assert(own:sync(prompt))
    local want = own:decode(3)
    local thing = setmetatable({}, { __tostring = function() return "a thing" end })
    for _, case in ipairs {
      { function() error("stop here", 0) end, "stop here" },
      { function() error(thing) end, thing },
      { function() error() end, nil },
      { function() coroutine.yield() end, "attempt to yield across a C-call boundary" },
      { function() string.rep("x", math.maxinteger) end, "resulting string too large" },
    } do
      for _, call in ipairs { own.sync, own.begin } do
        own:sync { 5 }
        what = case[1]
        local ok, raised = pcall(coroutine.wrap(function()
          if call == own.sync then return own:sync(prompt) end
          own:begin(prompt, 2)
          return own:poll(0)
        end))
        what = nil
        assert(not ok)
        assert(raised == case[2] or type(raised) == "string" and raised:find(case[2], 1, true), raised)
        assert(own:sync(prompt))
        same(own:decode(3), want)
      end
    end
    local ok, raised = pcall(dsvk.model, "nano", { device = model:device(), progress = function() error("in loading", 0) end })
    assert(not ok and raised == "in loading")
    what = function() own:cancel() end -- noticed before the next chunk
    refused("CANCELLED", "cancelled", own:sync(("Romeo "):rep(60)))
    what = nil
    assert(own:sync(prompt))
    same(own:decode(3), want)
  end)
end)
