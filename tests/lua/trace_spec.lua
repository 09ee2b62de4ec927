-- Traces: what a forward pass went through, by name; their ends.
local dsvk = require "dsvk"

describe("traces", function()
  local model, trace, ids
  local text = "ROMEO:\nO, she doth teach the torches to burn bright! It seems she hangs upon the cheek of night"

  setup(function()
    model = assert(dsvk.model("nano", { max_chunk = 64 }))
    ids = model:tokenizer():encode(text)
    table.insert(ids, 1, model:config().bos_token_id)
    trace = assert(model:trace(text))
  end)
  teardown(function()
    trace:close()
    model:close()
  end)

  it("is of the text's tokens", function()
    assert(table.concat(trace:tokens(), " ") == table.concat(ids, " "))
    local same <close> = assert(model:trace(ids))
    assert(table.concat(same:read("logits"), " ") == table.concat(trace:read("logits"), " "))
  end)

  it("has what the forward pass goes through, by name", function()
    local config, names = model:config(), trace:names()
    assert(names[1] == "embedding" and names[#names] == "logits")
    for _, name in ipairs(names) do
      local info, count = assert(trace:info(name)), 1
      for _, size in ipairs(info.shape) do count = count * size end
      local numbers = assert(trace:read(name))
      assert(#numbers == count, name)
      assert(info.dtype == "I32" and math.type(numbers[1]) == "integer" or info.dtype == "F32" and math.type(numbers[1]) == "float", name)
    end
    local shape = trace:info("layers.0.ffn.comb").shape
    assert(#shape == 3 and shape[1] == #ids and shape[2] == 4 and shape[3] == 4)
    assert(trace:info("layers.0.router.experts").shape[2] == config.n_experts_per_token)
  end)

  it("ends with the logits of the real pass", function()
    local session <close> = assert(model:session { context = #ids + 1 })
    local rows, numbers = assert(session:evaluate(ids)), trace:read("logits")
    local width = #rows[1]
    local best, at = -math.huge, 0
    for i, logit in ipairs(rows[#ids]) do
      local traced = numbers[(#ids - 1) * width + i]
      assert(math.abs(traced - logit) < 1e-2, ("id %d: %g, the pass has %g"):format(i - 1, traced, logit))
      if traced > best then best, at = traced, i - 1 end
    end
    assert(session:decode(1)[1] == at)
  end)

  it("counts what experts are chosen", function()
    local config, loads = model:config(), trace:expert_load()
    assert(#loads == config.n_layers)
    for _, counts in ipairs(loads) do
      local sum = 0
      assert(#counts == config.n_experts)
      for _, n in ipairs(counts) do sum = sum + n end
      assert(sum == #ids * config.n_experts_per_token)
    end
  end)

  it("says what it has not", function()
    local value, message, code = trace:read("layers.99.compressed")
    assert(value == nil and code == "INVALID" and message:find("no entry 'layers.99.compressed'", 1, true))
    assert(select(3, trace:info("router")) == "INVALID")
    value, message, code = model:trace {}
    assert(value == nil and code == "INVALID" and message == "a trace needs at least one token")
    assert(not pcall(model.trace, model, 5) and not pcall(model.trace, model, text, { chunk = 1 }))
    assert(not pcall(trace.read, trace, {}) and not pcall(trace.read, model, "logits"))
  end)

  it("reports progress, and stops for its error", function()
    local calls = 0
    local one <close> = assert(model:trace(ids, { progress = function(stage, done, total)
      assert(stage == "tokens" and done <= total and total == #ids)
      calls = calls + 1
    end }))
    assert(calls > 0)
    local ok, raised = pcall(function()
      local _ = model:trace(text, { progress = function() error("enough", 0) end })
    end)
    assert(not ok and raised == "enough")
  end)

  it("test_A02_A03_ outlives its model, and is closed once", function()
    local own = assert(dsvk.model("nano", { device = model:device(), max_chunk = 64 }))
    local one = assert(own:trace(ids, { progress = function() own:close() end }))
    assert(own:closed())
    own = nil
    collectgarbage()
    assert(#one:read("logits") == #trace:read("logits"))
    assert(one:close() and one:closed() and one:close())
    local ok, message = pcall(one.names, one)
    assert(not ok and message:find("the trace is closed", 1, true))
  end)
end)
