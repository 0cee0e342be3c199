-- HAProxy asks ratekeeper about each request, and answers a refused one itself: see docs/gateways.md.
local not_asked = { connection = true, upgrade = true, ["content-length"] = true, ["transfer-encoding"] = true }
local handed_back = { "retry-after", "ratelimit", "ratelimit-policy", "content-type" }

core.register_action("ratekeeper", { "http-req" }, function(txn)
    local headers = {}
    for name, values in pairs(txn.http:req_get_headers()) do
        if not not_asked[name] then
            headers[name] = {}
            for i = 0, #values do table.insert(headers[name], values[i]) end
        end
    end
    headers["x-forwarded-method"] = { txn.sf:method() }
    headers["x-forwarded-uri"] = { txn.sf:url() }
    headers["x-forwarded-for"] = { txn.sf:src() }
    local answer = core.httpclient():get{ url = "http://127.0.0.1:8080/check", headers = headers, timeout = 5000 }
    if answer.status == 200 then return end
    local reply = txn:reply{ status = answer.status >= 400 and answer.status or 503, body = answer.body }
    for _, name in ipairs(handed_back) do
        for _, value in pairs(answer.headers[name] or {}) do reply:add_header(name, value) end
    end
    txn:done(reply)
end)
