-- The rule on the server: gcra.py in Lua, the same names, the same order. Knows buckets by name; no key, no limit.
--
-- KEYS      the buckets of all requests, in order
-- ARGV[1]   packed by script.py: the clock, then requests, each a kind, a count of buckets, and what is asked of each
-- ARGV[2]   the number of this call
-- returns   text: that number, the time now, and then times, each a pair (see replies.py)
--
-- Numbers here are doubles, which are exact only up to 2^53, and a time in ticks is longer. So a time is two: seconds,
-- and ticks (1/16 ns) within the second. Each is exact, and so is all arithmetic below. It is never one number.
--
-- A bucket is one string: its TAT, and when that was written; one byte more if it is marked, because somebody owns a
-- range of its axis for a later departure. It stays marked until it is full. Of a blocked bucket the end of the block
-- follows. No string is a full bucket: each goes by itself when its bucket is full and no block is left (PX), rounded up,
-- so never before. PX and TIME read the same clock.
--
-- When the clock has stepped back. A TAT from before the step would be too far ahead by as much, and lock everybody out
-- for as long. So a bucket that was written in a second that has not come yet is moved: now it owes what it owed when
-- it was written. Time has only passed since then, so in truth it owes no more: nothing is minted, and none waits longer
-- than the debt there was. The move is written, also by a refusal: else the debt would stand still until the clock has
-- caught up. Steps within one second are left alone: the debt grows by the step, and the next move takes that away, so
-- it is never more than a second too much. A step forward is time passed to every reader of the clock: it refills
-- buckets, a full bucket at most, as with any wall clock.
-- Example: full again at 1030, written at 1000, and the clock now says 400.25: full again at 430.25.

local TICKS_PER_SECOND = 16000000000
local TICKS_PER_MS, TICKS_PER_US = TICKS_PER_SECOND / 1000, TICKS_PER_SECOND / 1000000
local DECIDE, PEEK, REFUND, REWIND, ADJUST, MARKS = 0, 1, 2, 3, 4, 5
local ANY_MARK = 2
local MARK = '!'
local NO_TIME = 2^40 -- seconds: no bucket has a time so far ahead

local call, take = redis.call, struct.unpack
local packed, position = ARGV[1], 1
local now_s, now_t, slack_ms
now_s, now_t, position = take('<dd', packed, position)
if now_s < 0 then
    local time = call('TIME')
    now_s, now_t, slack_ms = tonumber(time[1]), time[2] * TICKS_PER_US, 1
else
    slack_ms = 3600000 -- a test's clock, which may stand still while the server's runs
end

local function before(a_s, a_t, b_s, b_t)
    return a_s < b_s or (a_s == b_s and a_t < b_t)
end

local function plus(a_s, a_t, b_s, b_t)
    local s, t = a_s + b_s, a_t + b_t
    if t >= TICKS_PER_SECOND then return s + 1, t - TICKS_PER_SECOND end
    return s, t
end

local function minus(a_s, a_t, b_s, b_t)
    local s, t = a_s - b_s, a_t - b_t
    if t < 0 then return s - 1, t + TICKS_PER_SECOND end
    return s, t
end

local function write(bucket, tat_s, tat_t, marked, until_s, until_t)
    local end_s, end_t, block = tat_s, tat_t, ''
    if before(now_s, now_t, until_s, until_t) then
        block = struct.pack('<dd', until_s, until_t)
        if before(tat_s, tat_t, until_s, until_t) then end_s, end_t = until_s, until_t end
    elseif not before(now_s, now_t, tat_s, tat_t) then
        call('DEL', bucket)
        return
    end
    local left_s, left_t = minus(end_s, end_t, now_s, now_t)
    local ms = left_s * 1000 + math.ceil(left_t / TICKS_PER_MS) + slack_ms
    local stored = struct.pack('<dddd', tat_s, tat_t, now_s, now_t) .. (marked and MARK or '') .. block
    call('SET', bucket, stored, 'PX', ms)
end

-- Returns a time of a stored string. Another program's value may be anything, also NaN. A refund to a blocked bucket may
-- have set its TAT back by any time.
local function time_at(stored, first)
    local s, t = take('<dd', stored, first)
    if s % 1 ~= 0 or s >= NO_TIME or t % 1 ~= 0 or t < 0 or t >= TICKS_PER_SECOND then
        error('the stored value is not a bucket')
    end
    return s, t
end

local function read(bucket)
    local stored = call('GET', bucket)
    if not stored then return 0, 0, false, 0, 0 end
    local size, marked, until_s, until_t = #stored, #stored % 2 == 1, 0, 0
    if marked then size = size - 1 end
    if size ~= 32 and size ~= 48 or marked and stored:sub(33, 33) ~= MARK then
        error('the stored value is not a bucket')
    end
    local tat_s, tat_t = time_at(stored, 1)
    local written_s, written_t = time_at(stored, 17)
    if size == 48 then until_s, until_t = time_at(stored, #stored - 15) end
    if now_s < written_s then -- the clock has stepped back: see above
        tat_s, tat_t = plus(now_s, now_t, minus(tat_s, tat_t, written_s, written_t))
        if until_s > 0 then until_s, until_t = plus(now_s, now_t, minus(until_s, until_t, written_s, written_t)) end
        write(bucket, tat_s, tat_t, marked, until_s, until_t)
    end
    return tat_s, tat_t, marked and before(now_s, now_t, tat_s, tat_t), until_s, until_t
end

-- Returns whether the charge is allowed, the TAT after it, and what the bucket owed before; or, if the block is what
-- refuses it longest, the time that is left of the block, below 0. See blocked_debt in gcra.py.
local function decide(tat_s, tat_t, until_s, until_t, increment_s, increment_t, tolerance_s, tolerance_t)
    local start_s, start_t = tat_s, tat_t
    if before(tat_s, tat_t, now_s, now_t) then start_s, start_t = now_s, now_t end
    local new_tat_s, new_tat_t = plus(start_s, start_t, increment_s, increment_t)
    local ahead_s, ahead_t = minus(new_tat_s, new_tat_t, now_s, now_t)
    local allowed = not before(tolerance_s, tolerance_t, ahead_s, ahead_t)
    local debt_s, debt_t = minus(start_s, start_t, now_s, now_t)
    if before(now_s, now_t, until_s, until_t) then
        local left_s, left_t = minus(until_s, until_t, now_s, now_t)
        local as_s, as_t = left_s, left_t
        if before(increment_s, increment_t, tolerance_s, tolerance_t) then
            as_s, as_t = plus(left_s, left_t, minus(tolerance_s, tolerance_t, increment_s, increment_t))
        end
        if before(debt_s, debt_t, as_s, as_t) then debt_s, debt_t = -left_s, -left_t end
        allowed = false
    end
    return allowed, new_tat_s, new_tat_t, debt_s, debt_t
end

local out = { ARGV[2], now_s, now_t }
local base, count = 0, 0 -- the charges of requests before this one; the charges of this one

-- Decide this request's charges, and make all of them or none. Puts out what each bucket owed before its own.
local function request(commit)
    local charges, passes, first = {}, true, #out
    for i = 1, count do
        local flags, increment_s, increment_t, tolerance_s, tolerance_t
        flags, increment_s, increment_t, tolerance_s, tolerance_t, position = take('<Bdddd', packed, position)
        local shadow, burst_s, burst_t = flags % 2, tolerance_s, tolerance_t
        if flags > 1 then burst_s, burst_t, position = take('<dd', packed, position) end
        local bucket = KEYS[base + i]
        local tat_s, tat_t, marked, until_s, until_t = read(bucket)
        local allowed, new_tat_s, new_tat_t, debt_s, debt_t =
            decide(tat_s, tat_t, until_s, until_t, increment_s, increment_t, tolerance_s, tolerance_t)
        out[first + 2 * i - 1], out[first + 2 * i] = debt_s, debt_t
        passes = passes and (allowed or shadow == 1)
        local writes = allowed and (increment_s > 0 or increment_t > 0)
        if count == 1 then
            if commit and writes then
                local ahead_s, ahead_t = minus(new_tat_s, new_tat_t, now_s, now_t)
                marked = marked or before(burst_s, burst_t, ahead_s, ahead_t)
                write(bucket, new_tat_s, new_tat_t, marked, 0, 0)
            end
            return
        end
        charges[i] = { bucket, shadow, increment_s, increment_t, tolerance_s, tolerance_t, burst_s, burst_t }
    end
    if not (commit and passes) then return end
    -- Each fits. Two of one bucket may yet not fit together: run the rule in order before anything is written.
    local states, seen = {}, {}
    for i, charge in ipairs(charges) do
        local bucket, shadow, increment_s, increment_t, tolerance_s, tolerance_t, burst_s, burst_t = unpack(charge)
        local state = states[bucket]
        local tat_s, tat_t, marked, until_s, until_t
        if state then tat_s, tat_t, marked = unpack(state) else tat_s, tat_t, marked, until_s, until_t = read(bucket) end
        local allowed, new_tat_s, new_tat_t, debt_s, debt_t =
            decide(tat_s, tat_t, until_s or 0, until_t or 0, increment_s, increment_t, tolerance_s, tolerance_t)
        if not allowed and shadow == 0 then
            out[first + 2 * i - 1], out[first + 2 * i] = debt_s, debt_t
            return
        end
        seen[2 * i - 1], seen[2 * i] = debt_s, debt_t
        if allowed and (increment_s > 0 or increment_t > 0) then
            local ahead_s, ahead_t = minus(new_tat_s, new_tat_t, now_s, now_t)
            marked = marked or before(burst_s, burst_t, ahead_s, ahead_t)
            states[bucket] = { new_tat_s, new_tat_t, marked }
        end
    end
    for i, owed in ipairs(seen) do out[first + i] = owed end
    for bucket, state in pairs(states) do
        local tat_s, tat_t, marked = unpack(state)
        write(bucket, tat_s, tat_t, marked, 0, 0) -- it was charged, so it is not blocked
    end
end

-- Give back what may still be given back: nothing while the bucket is marked, or the debt is over the burst.
local function refund(bucket, increment_s, increment_t, burst_s, burst_t, elapsed_s, elapsed_t)
    local tat_s, tat_t, marked, until_s, until_t = read(bucket)
    local debt_s, debt_t = minus(tat_s, tat_t, now_s, now_t)
    if marked or before(burst_s, burst_t, debt_s, debt_t) or before(increment_s, increment_t, elapsed_s, elapsed_t) then
        return
    end
    local given_s, given_t = minus(increment_s, increment_t, elapsed_s, elapsed_t)
    tat_s, tat_t = minus(tat_s, tat_t, given_s, given_t)
    write(bucket, tat_s, tat_t, marked, until_s, until_t)
end

-- Set a TAT back if it is still the expected one, and the mark too. Puts out whether it was.
local function rewind(bucket, expected_s, expected_t, to_s, to_t, expected_mark, mark)
    local tat_s, tat_t, marked, until_s, until_t = read(bucket)
    if tat_s ~= expected_s or tat_t ~= expected_t or (tat_s == 0 and tat_t == 0) then return 0 end
    if expected_mark ~= ANY_MARK and marked ~= (expected_mark == 1) then return 0 end
    if mark ~= ANY_MARK then marked = mark == 1 end
    write(bucket, to_s, to_t, marked, until_s, until_t)
    return 1
end

-- Move a TAT back. Then a block of no time ends the block, one of more time makes it last at least so long, and one below
-- 0 leaves it as it is. See rk_adjust in core/charge.h.
local function adjust(bucket, back_s, back_t, block_s, block_t)
    local tat_s, tat_t, marked, until_s, until_t = read(bucket)
    tat_s, tat_t = minus(tat_s, tat_t, back_s, back_t)
    if block_s == 0 and block_t == 0 then
        until_s, until_t = 0, 0
    elseif block_s >= 0 then
        local end_s, end_t = plus(now_s, now_t, block_s, block_t)
        if before(until_s, until_t, end_s, end_t) then until_s, until_t = end_s, end_t end
    end
    write(bucket, tat_s, tat_t, marked, until_s, until_t)
end

local kind
while position <= #packed do
    kind, count, position = take('<BH', packed, position)
    if kind == DECIDE or kind == PEEK then
        request(kind == DECIDE)
    elseif kind == REFUND then
        local made_s, made_t, increment_s, increment_t, burst_s, burst_t
        made_s, made_t, position = take('<dd', packed, position)
        local elapsed_s, elapsed_t = minus(now_s, now_t, made_s, made_t)
        if elapsed_s < 0 then elapsed_s, elapsed_t = 0, 0 end
        for i = 1, count do
            increment_s, increment_t, burst_s, burst_t, position = take('<dddd', packed, position)
            refund(KEYS[base + i], increment_s, increment_t, burst_s, burst_t, elapsed_s, elapsed_t)
        end
    elseif kind == REWIND then
        local expected_s, expected_t, to_s, to_t, expected_mark, mark
        expected_s, expected_t, to_s, to_t, expected_mark, mark, position = take('<ddddBB', packed, position)
        out[#out + 1] = 0
        out[#out + 1] = rewind(KEYS[base + 1], expected_s, expected_t, to_s, to_t, expected_mark, mark)
    elseif kind == ADJUST then
        local back_s, back_t, block_s, block_t
        back_s, back_t, block_s, block_t, position = take('<dddd', packed, position)
        adjust(KEYS[base + 1], back_s, back_t, block_s, block_t)
    elseif kind == MARKS then
        for i = 1, count do
            local _, _, marked = read(KEYS[base + i])
            out[#out + 1] = 0
            out[#out + 1] = marked and 1 or 0
        end
    end
    base = base + count
end
return table.concat(out, ' ')
