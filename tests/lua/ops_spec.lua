-- Ops without a model: numbers in and out, results, what wrong arguments say.
local dsvk = require "dsvk"

local function near(numbers, expected)
  assert(#numbers == #expected, ("%d numbers, expected %d"):format(#numbers, #expected))
  for i, want in ipairs(expected) do
    assert(math.abs(numbers[i] - want) < 1e-5, ("number %d is %g, expected %g"):format(i, numbers[i], want))
  end
end

local function row(n, f)
  local list = {}
  for i = 1, n do list[i] = f(i) end
  return list
end

describe("ops", function()
  local device
  setup(function() device = assert(dsvk.device()) end)
  teardown(function() device:close() end)

  it("multiplies weights of FP4", function()
    -- Row 0 is 1 everywhere (code 2), row 1 -2 (code 12) with scale 2^1.
    local w <close> = assert(dsvk.tensor(device, { form = "matrix", dtype = "F4", shape = { 2, 32 },
      data = ("\x22"):rep(16) .. ("\xcc"):rep(16), scales = "\x7f\x80" }))
    local x <close> = assert(dsvk.tensor(device, { shape = { 1, 32 }, data = row(32, function(i) return i end) }))
    local y <close> = assert(dsvk.ops.matmul { x = x, w = w })
    near(y:read(), { 528, -2112 })
    near(w:read(), row(64, function(i) return i <= 32 and 1 or -4 end))
    local info = y:info()
    assert(info.form == "values" and info.dtype == "F32" and info.shape[1] == 1 and info.shape[2] == 2)
  end)

  it("gives every result", function()
    local function tensor(shape, data) return assert(dsvk.tensor(device, { shape = shape, data = data })) end
    local out, none, post, comb = dsvk.ops.hyper_connection {
      streams = tensor({ 1, 4, 32 }, row(128, function(i) return i % 7 - 3 end)), fn = tensor({ 24, 128 }), base = tensor { 24 },
      scale = tensor({ 3 }, { 1, 1, 1 }), norm = tensor({ 32 }, row(32, function() return 1 end)),
    }
    assert(out:info().shape[2] == 32 and none == nil)
    near(post:read(), { 1, 1, 1, 1 })                     -- 2 * sigmoid(0)
    near(comb:read(), row(16, function() return 0.25 end)) -- Sinkhorn of equal numbers
  end)

  it("chooses", function()
    local scores <close> = assert(dsvk.tensor(device, { shape = { 1, 5 }, data = { 1, 9, 3, 9, 2 } }))
    local idx = assert(dsvk.ops.topk { scores = scores, k = 3 })
    local chosen = idx:read()
    assert(chosen[1] == 1 and chosen[2] == 2 and chosen[3] == 3 and idx:info().dtype == "I32")
    assert(assert(dsvk.ops.sample { logits = scores }):read()[1] == 1)
    assert(assert(dsvk.ops.sample { logits = scores, temperature = 0.1, top_k = 2, seed = 7 }):read()[1] % 2 == 1)
  end)

  it("keeps whole numbers", function()
    local x <close> = assert(dsvk.tensor(device, { shape = { 4 }, dtype = "I32", data = { -1 << 31, (1 << 31) - 1, 5.0, 0 } }))
    local numbers = x:read()
    assert(numbers[1] == -1 << 31 and numbers[2] == (1 << 31) - 1 and numbers[3] == 5)
  end)

  it("makes tables from nothing but a device", function()
    local table <close> = assert(dsvk.ops.rope_table { device = device, positions = 2, dim = 2 })
    near(table:read(), { 1, 0, math.cos(1), math.sin(1) })
  end)

  it("test_A12_ reports progress, and stops for its error", function()
    local big = ("\0"):rep(4 * 512 * 512) -- of more than one submit
    local w <close> = assert(dsvk.tensor(device, { form = "matrix", shape = { 512, 512 }, data = big }))
    local x <close> = assert(dsvk.tensor(device, { shape = { 512, 512 }, data = big }))
    local arguments, calls = { x = x, w = w }, 0
    local function watch(stage, done, total)
      assert(type(stage) == "string" and math.type(done) == "integer" and math.type(total) == "integer")
      for _, used in ipairs { w, x } do
        local ok, message, code = used:close()
        getmetatable(used).__gc(used)
        assert(ok or code == "BUSY" and message:find("in use", 1, true), message)
      end
      arguments.x, arguments.w = nil, nil
      collectgarbage()
      calls = calls + 1
    end
    assert(dsvk.ops.matmul(arguments, { progress = watch }))
    assert(calls > 0 and not w:closed() and not x:closed())
    local function used()
      collectgarbage()
      local bytes = 0
      for _, purpose in pairs(device:memory()) do bytes = bytes + (purpose.used or 0) end
      return bytes
    end
    local before = used()
    local only = { x = assert(dsvk.tensor(device, { shape = { 512, 512 }, data = big })),
      w = assert(dsvk.tensor(device, { form = "matrix", shape = { 512, 512 }, data = big })) }
    assert(used() > before)
    assert(dsvk.op(device, "matmul", only, { progress = function()
      only.x, only.w = nil, nil
      collectgarbage()
    end })):close()
    assert(next(only) == nil and used() == before, "tensors of the arguments alone are there to the end, and no longer")
    for name, use in pairs {
      op = function(options) return dsvk.ops.matmul({ x = x, w = w }, options) end,
      ["op by name"] = function(options) return dsvk.op(device, "matmul", { x = x, w = w }, options) end,
      read = function(options) return w:read(options) end,
      measure = function(options) return device:measure(options) end,
    } do
      local told = 0
      local ok, raised = pcall(function()
        local _ = use { progress = function()
          told = told + 1
          error("enough", 0)
        end }
      end)
      assert(not ok and raised == "enough" and told == 1, ("%s: %s after %d reports"):format(name, raised, told))
      ok, raised = pcall(use, { progres = watch })
      assert(not ok and raised:find("unknown option 'progres'", 1, true), raised)
    end
    assert(x:close() and x:closed() and w:close())
  end)

  it("says what is wrong", function()
    local x <close> = assert(dsvk.tensor(device, { shape = { 2, 32 } }))
    local y, message, code = dsvk.ops.matmul { x = x, w = x }
    assert(y == nil and code == "INVALID" and message == "matmul: w: expected a matrix [n_out, n_in], got F32 values [2, 32]")
    for word, options in pairs {
      ["expected 256 bytes by shape and dtype, got 4"] = { shape = { 2, 32 }, data = { 1 } },
      ["expected 'values', 'matrix' or 'experts', got 'cube'"] = { shape = { 2 }, form = "cube" },
      ["expected an array of 1 to 4 sizes"] = { shape = {} },
      ["option 'data': expected integers -2147483648 .. 2147483647, got 1.5 at 2"] = { shape = { 2 }, dtype = "I32", data = { 1, 1.5 } },
      ["option 'data': expected integers -2147483648 .. 2147483647, got 1e+14 at 1"] = { shape = { 2 }, dtype = "I32", data = { 1e14, 0 } },
      ["option 'data': expected integers -2147483648 .. 2147483647, got '1' at 1"] = { shape = { 1 }, dtype = "I32", data = { "1" } },
      ["option 'scales': expected integers 0 .. 255, got -1 at 2"] = { shape = { 2, 32 }, form = "matrix", dtype = "F4",
        data = ("x"):rep(32), scales = { 0, -1 } },
      ["option 'data': expected numbers, got '2' at 2"] = { shape = { 2 }, data = { 1, "2" } },
      ["expected a name such as 'F32'"] = { shape = { 2 }, dtype = "F5" },
    } do
      local ok, why = pcall(dsvk.tensor, device, options)
      assert(not ok and why:find(word, 1, true), tostring(why))
    end
    assert(not pcall(dsvk.ops.matmul, {}))
    local ok, why = pcall(dsvk.ops.sample, { logits = x, seed = (1 << 53) + 1 })
    assert(not ok and why:find("seed: expected a number that a double holds exactly, got 9007199254740993", 1, true), why)
    assert(dsvk.ops.sample { logits = x, seed = 1 << 53 })
    x:close()
    assert(x:closed() and not pcall(x.read, x))
  end)
end)
