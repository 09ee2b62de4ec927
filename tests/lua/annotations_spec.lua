-- lua/types/dsvk.lua names every function of the module, and none that is not there.
local dsvk = require "dsvk"

describe("annotations", function()
  it("are the module's functions", function()
    local here = debug.getinfo(1, "S").source:match("^@(.*)[/\\]") or "."
    local annotated = {}
    for line in io.lines(here .. "/../../lua/types/dsvk.lua") do
      local name = line:match("^function (dsvk[%w_.:]*)%(")
      if name then annotated[name:gsub(":", ".")] = true end
    end
    local present = {}
    for name, value in pairs(dsvk) do
      if type(value) == "function" then present["dsvk." .. name] = true end
      for method in pairs(type(value) == "table" and value or {}) do present["dsvk." .. name .. "." .. method] = true end
    end
    for name in pairs(present) do assert(annotated[name], name .. " has no annotation") end
    for name in pairs(annotated) do assert(present[name], name .. " is not in the module") end
  end)
end)
