-- wrk's script: POST the bodies of a file, one a line, in turn; the figures come out as one line of JSON.
-- wrk ... -s wrk.lua URL -- BODIES [HEADER VALUE ...]
local bodies, at = {}, 0

function init(args)
  local headers = { ["Content-Type"] = "application/json" }
  for i = 2, #args - 1, 2 do headers[args[i]] = args[i + 1] end
  for name, value in pairs(wrk.headers) do headers[name] = headers[name] or value end
  for line in io.lines(args[1]) do bodies[#bodies + 1] = wrk.format("POST", nil, headers, line) end
end

function request()
  at = at % #bodies + 1
  return bodies[at]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "max_ms": %f, "status": %d, "socket": %d, "timeout": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    e.status, e.connect + e.read + e.write, e.timeout))
end
