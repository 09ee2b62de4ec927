-- Runs specs (arg: their files) with busted's describe, it, setup, teardown and before_each, so that no other Lua package is
-- needed; `busted tests/lua` runs the same files. Returns whether all passed, at least one of them.
local passed, failures, groups = 0, {}, {}

local function hook(name)
  return function(run) groups[#groups][name] = run end
end

function describe(name, body)
  groups[#groups + 1] = { name = name }
  body()
  local group = table.remove(groups)
  if group.teardown then group.teardown() end
end

setup, teardown, before_each = hook "setup", hook "teardown", hook "before_each"

function it(name, body)
  local group = groups[#groups]
  if group.setup then
    group.setup()
    group.setup = nil
  end
  if group.before_each then group.before_each() end
  local ok, message = xpcall(body, debug.traceback)
  if ok then
    passed = passed + 1
  else
    failures[#failures + 1] = ("%s: %s\n%s"):format(group.name, name, message)
  end
end

for _, file in ipairs(arg) do dofile(file) end
for _, failure in ipairs(failures) do io.stderr:write(failure, "\n") end
print(("%d passed, %d failed"):format(passed, #failures))
return passed > 0 and #failures == 0
