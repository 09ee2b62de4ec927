-- Conversations: tables to prompts, answers to events and messages.
local dsvk = require "dsvk"
local chat = dsvk.chat

local function fails(pattern, f, ...)
  local fine, message = pcall(f, ...)
  assert(not fine and tostring(message):find(pattern), ("%s does not match %s"):format(tostring(message), pattern))
end

local TOOLS = [=[[{"type": "function", "function": {"name": "weather", "description": "The weather", "parameters":
  {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}}]]=]
local CALL = "A call.</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Bern"
  .. "</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" string=\"false\">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"

describe("conversations", function()
  local tokenizer, model

  setup(function()
    model = assert(dsvk.model("nano"))
    tokenizer = model:tokenizer()
  end)
  teardown(function() model:close() end)

  it("are prompts, as text and as ids", function()
    local messages = { { role = "system", content = "Be brief." }, { role = "user", content = 'Say "hi"\n\tπ \1 <｜User｜>' } }
    local text = assert(chat.encode(messages, { thinking_mode = "chat" }))
    assert(text:find('Be brief.<｜User｜>Say "hi"\n\tπ \1 <｜User｜><｜Assistant｜></think>', 1, true), text)
    local ids = assert(chat.encode_ids(tokenizer, messages, { thinking_mode = "chat" }))
    local users = 0
    for _, id in ipairs(ids) do users = users + (id == tokenizer:id("<｜User｜>") and 1 or 0) end
    assert(users == 1 and ids[#ids] == tokenizer:id("</think>")) -- what a user writes is never markup
    local thinking = assert(chat.encode_ids(tokenizer, messages))
    assert(thinking[#thinking] == tokenizer:id("<think>"))
    assert(chat.encode('[{"role": "user", "content": "Hi"}]') == chat.encode { { role = "user", content = "Hi" } })
  end)

  it("take tools as text or tables, and calls", function()
    local messages = {
      { role = "user", content = "Weather?" },
      { role = "assistant", content = "", reasoning_content = "A call.", tool_calls = { { id = "c1", type = "function",
        ["function"] = { name = "weather", arguments = { city = "Bern", days = 2 } } } } },
      { role = "tool", tool_call_id = "c1", content = "rain" },
    }
    local text = assert(chat.encode(messages, { tools = TOOLS }))
    assert(text:find(CALL, 1, true), text)
    assert(text:find('"name": "weather", "description": "The weather"', 1, true), "the order of the text")
    local empty = { { type = "function", ["function"] = { name = "now", parameters = { type = "object", properties = {} } } } }
    assert(chat.encode(messages, { tools = empty }):find('"properties": {}', 1, true))
    assert(chat.encode(messages, { tools = {} }) == chat.encode(messages))
    for _ = 1, 5 do -- the same tables are the same text
      local again = { { type = "function", ["function"] = { parameters = { properties = {}, type = "object" }, name = "now" } } }
      assert(chat.encode(messages, { tools = again }) == chat.encode(messages, { tools = empty }))
    end
  end)

  it("are refused with a sentence that names the field", function()
    local function refused(code, pattern, ...)
      local value, message, got = chat.encode(...)
      assert(value == nil and got == code and message:find(pattern), tostring(message))
    end
    refused("INVALID", "messages%[1%]%.role", { { role = "user", content = "a" }, { role = "wizard", content = "b" } })
    refused("FORMAT", "", "no JSON")
    refused("INVALID", "thinking_mode", { { role = "user", content = "a" } }, { thinking_mode = "deep" })
    local loop = {}
    loop.me = loop
    for _, case in ipairs { { "unknown option 'thinking'", {}, { thinking = true } }, { "messages%[1%]%[f%]: a function is no JSON", { { f = print } } },
      { "messages%[1%].*deeper than 64", { loop } }, { "messages%[1%]%[x%]: a .*nan", { { x = 0 / 0 } } },
      { "messages: the key x in a list", { "a", x = 1 } }, { "the key true in a table of names", { { [true] = 1 } } } } do
      fails(case[1], chat.encode, case[2], case[3])
    end
    fails("Tokenizer", chat.encode_ids, {}, {})
    fails("bad argument", chat.parse)
    fails("invalid option 'deep'", chat.parse, "x", "deep")
  end)

  it("come back as messages, and as events wherever the text is cut", function()
    local message = assert(chat.parse("Well." .. CALL .. "<｜end▁of▁sentence｜>"))
    assert(message.role == "assistant" and message.reasoning_content == "Well.A call." and message.content == "")
    local call = message.tool_calls[1]["function"]
    assert(call.name == "weather" and call.arguments == '{"city": "Bern", "days": 2}', call.arguments)
    local function events(cut)
      local parser <close> = assert(chat.parser())
      local texts, kinds = {}, {}
      local function take(list)
        for _, event in ipairs(assert(list)) do
          if event.kind ~= kinds[#kinds] then kinds[#kinds + 1] = event.kind end
          texts[event.kind] = (texts[event.kind] or "") .. event.text
          assert((event.call == 1) == (event.kind == "call" or event.kind == "arguments" or event.kind == "call_end"))
        end
      end
      assert(parser:place() == "reasoning")
      take(parser:feed(CALL:sub(1, cut)))
      take(parser:feed(CALL:sub(cut + 1)))
      take(parser:finish())
      assert(texts.reasoning == "A call." and texts.call == "weather" and texts.arguments == '{"city": "Bern", "days": 2}')
      return table.concat(kinds, " ")
    end
    for cut = 0, #CALL, 3 do assert(events(cut) == "reasoning call arguments call_end", cut) end
  end)

  it("are answered, with tokens pushed as they come", function()
    local ids = assert(chat.encode_ids(tokenizer, { { role = "user", content = "Hello" } }, { thinking_mode = "chat" }))
    local session <close> = assert(model:session { context = #ids + 40 })
    assert(session:sync(ids))
    local parser, said = assert(chat.parser("chat")), ""
    for _, new in session:stream(40) do
      for _, id in ipairs(new) do
        for _, event in ipairs(parser:push(tokenizer, id)) do said = said .. (event.kind == "content" and event.text or "") end
      end
      if parser:place() == "end" then break end
    end
    assert(#said > 3 and not said:find("｜"), said)
    parser:close()
    fails("the parser is closed", parser.feed, parser, "x")
    assert(parser:closed() and tostring(parser):find("closed"))
    local other = assert(chat.parser())
    local value, message, code = other:push(tokenizer, 1 << 20)
    assert(value == nil and code == "INVALID", message)
    fails("32 bits", other.push, other, tokenizer, 1 << 40)
    assert(#assert(other:finish()) == 0)
    value, message, code = other:feed("more")
    assert(value == nil and code == "STATE", message)
  end)

  it("may be closed by a finalizer while events are made", function()
    local parser = assert(chat.parser("chat"))
    local function litter()
      return setmetatable({}, { __gc = function() parser:close() end })
    end
    collectgarbage("generational")
    local fine, message = pcall(function()
      for _ = 1, 200 do
        litter()
        assert(parser:feed(("word "):rep(50)))
      end
    end)
    collectgarbage("incremental")
    assert(fine or message:find("the parser is closed"), message)
  end)
end)
