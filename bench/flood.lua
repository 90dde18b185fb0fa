-- What a flood on the HTTP port asks for, in turn: the page, the metrics, and whether the services are ready.
local paths = { "/", "/metrics", "/readyz" }
local turn = 0

request = function()
  turn = turn % #paths + 1
  return wrk.format("GET", paths[turn])
end
