-- A game whose characters talk while it runs: a frame moves the world, then gives the model BUDGET microseconds. game_host.c, the
-- engine of this example, calls frame(seconds) sixty times a second. Without a budget nobody talks, to compare.
local dsvk = require "dsvk"

BUDGET = BUDGET or 6000 -- of the 16667 microseconds of a frame

-- The loading screen: the model, and steps of every size that a slice may have, so that no kernel is compiled in a frame.
local model = assert(dsvk.model("nano"))
DEVICE = model:device():info().driver -- for the report
local session = assert(model:session { context = 1024 })
for rows = 1, 8 do assert(session:evaluate(("O"):rep(2 * rows), { chunk = rows })) end
assert(session:decode(2))

local speakers = { "ROMEO", "JULIET", "MERCUTIO", "NURSE" }
local turn, line = 0, nil

-- The next character's turn to speak.
local function speak()
  turn = turn + 1
  line = speakers[turn % #speakers + 1] .. ":\n"
  assert(session:begin(line, 60, { temperature = 0.8, seed = turn }))
end

local bodies = {}
for i = 1, 500 do bodies[i] = { x = i % 25, y = i // 25, vx = i % 7 - 3, vy = i % 5 - 2 } end

local function move(seconds)
  for _, body in ipairs(bodies) do
    body.x, body.y = body.x + body.vx * seconds, body.y + body.vy * seconds
    if body.x < 0 or body.x > 25 then body.vx = -body.vx end
    if body.y < 0 or body.y > 20 then body.vy = -body.vy end
  end
end

function frame(seconds)
  move(seconds)
  if BUDGET == 0 then return end
  if not line then speak() end
  local piece, finished = session:poll(BUDGET)
  assert(piece, finished)
  line = line .. piece -- an engine would draw it
  if finished then
    io.stderr:write(line, "\n\n")
    line = nil
  end
end
