-- The log of a device: lines worth telling that are no failure of a call (faults A16, D15, D16).
local dsvk = require "dsvk"

describe("logs", function()
  local folder

  -- Compiles one kernel, which the device has to remember when it ends.
  local function use(device)
    local function ones(...) return assert(dsvk.tensor(device, { shape = { ... }, data = ("\0\0\x80\x3f"):rep(32) })) end
    local x <close> = ones(1, 32)
    local weight <close> = ones(32)
    local out <close> = assert(dsvk.ops.rms_norm { x = x, weight = weight })
  end

  setup(function() folder = os.tmpname() .. "/cache" end) -- a file lies in its way
  teardown(function() os.remove(folder:match("^(.*)/")) end)

  it("test_D16_ tells when a device closes, from wherever that is", function()
    for _, leave in ipairs {
      function(device) device:close() end,
      function(device) coroutine.wrap(function() device:close() end)() end,
      function() end, -- to the collector
    } do
      local lines = {}
      do
        local device = assert(dsvk.device(nil, { cache_dir = folder, log = function(line) lines[#lines + 1] = line end }))
        use(device)
        assert(#lines == 0)
        leave(device)
        device = nil
      end
      collectgarbage()
      collectgarbage()
      assert(#lines == 1 and lines[1]:find(folder, 1, true) and lines[1]:find("cannot be written", 1, true), lines[1])
    end
  end)

  it("test_A16_ turns calls from inside away", function()
    local device, said
    device = assert(dsvk.device(nil, { cache_dir = folder, log = function()
      said = { select(3, device:close()), pcall(device.memory, device) }
    end }))
    use(device)
    collectgarbage()
    device:close()
    assert(said[1] == "BUSY" and said[2] == false and said[3]:find("closed", 1, true))
  end)

  it("makes a warning of an error in it", function()
    for _, what in ipairs { function() error("no paper") end, function() error {} end, function() coroutine.yield() end } do
      local device = assert(dsvk.device(nil, { cache_dir = folder, log = what }))
      use(device)
      assert(device:close() and device:closed())
    end
  end)

  it("test_A01_ is a function", function()
    local ok, message = pcall(dsvk.device, nil, { log = "stderr" })
    assert(not ok and message:find("option 'log': expected a function (line), got 'stderr'", 1, true), message)
    assert(not pcall(dsvk.model, "nano", { log = print }))
  end)
end)
