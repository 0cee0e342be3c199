-- HAProxy asks ratekeeper about each request, and answers a refused one itself: see docs/gateways.md.
-- While the service does not answer, requests pass with the argument `open`, and are a 503 with `closed`.
local not_asked = { connection = true, upgrade = true, ["content-length"] = true, ["transfer-encoding"] = true }
-- HAProxy's HTTP client has room for 101 header lines (tune.http.maxhdr), and HAProxy 2.6 crashes at more.
local most_lines = 90
local handed_back = { "retry-after", "ratelimit", "ratelimit-policy", "content-type" }

local function note(txn, variable, values)
    if values then txn:set_var(variable, values[0]) end
end

core.register_action("ratekeeper", { "http-req" }, function(txn, when_down)
    local headers, lines = {}, 0
    for name, values in pairs(txn.http:req_get_headers()) do
        if not not_asked[name] then
            headers[name] = {}
            for i = 0, #values do table.insert(headers[name], values[i]) end
            lines = lines + #headers[name]
        end
    end
    if lines > most_lines then txn:done(txn:reply{ status = 431 }) end
    headers["x-forwarded-method"] = { txn.sf:method() }
    headers["x-forwarded-uri"] = { txn.sf:url() }
    headers["x-forwarded-for"] = { txn.sf:src() }
    local seconds = when_down == "open" and 1 or 5  -- of each of four tries
    headers["x-ratekeeper-timeout"] = { tostring(seconds / 2) }  -- so a request that waits for its turn is one try
    local answer = core.httpclient():get{ url = "http://127.0.0.1:8080/check", headers = headers, timeout = 1000 * seconds }
    if answer.status == 200 then
        note(txn, "txn.ratelimit", answer.headers["ratelimit"])
        note(txn, "txn.ratelimit_policy", answer.headers["ratelimit-policy"])
        return
    end
    -- If the service is down, HAProxy makes the answer itself, in HTML. The service's own are problems or plain text.
    local kind = (answer.headers or {})["content-type"]
    local from_service = kind and (kind[0] == "application/problem+json" or kind[0] == "text/plain")
    if when_down == "open" and not from_service and (answer.status < 100 or answer.status >= 500) then return end
    local reply = txn:reply{ status = answer.status >= 400 and answer.status or 503, body = answer.body }
    for _, name in ipairs(handed_back) do
        for _, value in pairs((answer.headers or {})[name] or {}) do reply:add_header(name, value) end
    end
    txn:done(reply)
end, 1)
