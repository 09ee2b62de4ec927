-- The module opened, used and closed many times (fault A15: 1,000 with DSVK_TEST_LONG=1) leaves memory and descriptors as they were.
local dsvk = require "dsvk"

local function resident_bytes()
  local file = assert(io.open("/proc/self/status"))
  local kilobytes = file:read("a"):match("VmRSS:%s*(%d+)")
  file:close()
  return 1024 * kilobytes
end

describe("lives", function()
  it("test_A15_ leaves nothing behind", function()
    local all = os.getenv("DSVK_TEST_LONG")
    local times, settled = all and 1000 or 2, all and 100 or 1
    local first, bytes
    for i = 1, times do
      local model = assert(dsvk.model("nano"))
      local session = assert(model:session { context = 256 })
      if not all or i % 50 == 1 then -- the driver readies its kernels for these
        assert(session:sync { 0, 40, 41, 42, 43, 44, 45, 46 })
        local ids = table.concat(assert(session:decode(6)), " ")
        first = first or ids
        assert(ids == first)
      end
      if i % 2 == 0 then -- half of them are left to the collector
        session:close()
        model:close()
      end
      session, model = nil, nil
      collectgarbage()
      if i == settled then bytes = resident_bytes() end
    end
    local grown = resident_bytes() - bytes
    if all then
      print(("%d lives in Lua: resident memory %.1f MB after %d, %+.3f MB at the end"):format(times, bytes / 1e6, settled, grown / 1e6))
      assert(grown < (times - settled) * 32768)
    end
  end)
end)
