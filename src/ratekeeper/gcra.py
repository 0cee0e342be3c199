"""The rule: one function that decides for both algorithms. Pure integers; no I/O, no clock, no state.

This is the generic cell rate algorithm (GCRA; ITU-T I.371, and ATM Forum TM 4.0), which ATM switches use. The same
function stands, line for line, in `core/cells.h` (C). Below is why it is right; nothing is assumed but arithmetic.

The picture people draw
    A token bucket holds at most `capacity` tokens and gains one each `interval`. A request of cost c takes c tokens if
    they are there, or else is refused. Its state is two numbers: tokens, and when they were last counted.

The same, in one number
    Tokens that are missing come back at a known pace, so the state may as well be *the time at which the bucket will be
    full again*. That time is the TAT (theoretical arrival time). If it is past, the bucket is full. If not,

        missing tokens = (tat - now) / interval          tokens = capacity - (tat - now) / interval

    Taking c tokens makes the bucket c * interval later to be full: new_tat = max(tat, now) + c * interval. It is
    allowed if no more than `capacity` tokens would then be missing: new_tat - now <= capacity * interval. Those two
    lines are the rule. `max` is the brim: a bucket that has been full for an hour has no more than one that just
    became full.

    Example. capacity 3, one token each 10 s. Drawn: tokens after each request; `x` is a refusal.

        now   0    0    0    0    5    10   40
        ask   1    1    1    1    1    1    3
        tat   0    10   20   30   30   30   40(past)
        new   10   20   30   40   40   40   70
        ahead 10   20   30   40x  35x  30   30          tolerance = 3 * 10 = 30
        left  2    1    0    0    0    0    0

    At 5 s the refused request is 35 - 30 = 5 s too early: retry_after. At 10 s exactly it passes.

Why no more than capacity + rate * t passes in any time t
    Let the first request of a window be allowed at time s, and the last at s + t. Before the first, max(tat, now) was
    at least s. Each allowed request moved the TAT on by at least its cost * interval (the max can only move it more),
    so after the last, tat >= s + (sum of costs) * interval. The last was allowed, so tat <= (s + t) + capacity *
    interval. Together: sum of costs <= capacity + t / interval. And `interval` is rounded up, so the true rate is never
    exceeded. A clock that steps back makes `now` smaller: `ahead` grows, fewer pass, none is minted.

Why the leaky bucket is the same rule
    A queue drained at one request an interval. The TAT is now the time at which the server will have nothing left to
    do. A request that comes at `now` waits for all before it, so it goes ahead at max(tat, now): delay = max(tat, now)
    - now = ahead - increment. That is `ahead - burst` with burst = increment: a token bucket without any burst,
    whose callers wait for their turn rather than be refused. It is refused when the queue is full: capacity waiting and
    one in service is `ahead <= (capacity + 1) * interval`, the tolerance.

Why integers, and why taking a then b equals taking a + b
    increment = cost * interval is linear, and nothing is rounded after the interval was. So 10 requests of cost 1 at
    one instant leave exactly the state of one request of cost 10, and a full bucket admits exactly `capacity`.
"""

from __future__ import annotations


def decide(tat: int, now: int, increment: int, burst: int, tolerance: int) -> tuple[bool, int, int, int, int]:
    """Return `allowed`, `new_tat`, `ahead`, `delay` and `retry_after` of one request against one bucket.

    All is in ticks; `increment` is the cost times the limit's interval. `new_tat` is to be stored if it is allowed.
    A named tuple or `max` would take as long as all the rest.

    >>> decide(tat=30, now=5, increment=10, burst=30, tolerance=30)
    (False, 40, 35, 5, 5)
    """
    start = tat if tat > now else now
    new_tat = start + increment
    ahead = new_tat - now
    allowed = ahead <= tolerance
    delay = ahead - burst if ahead > burst else 0
    retry_after = 0 if allowed else ahead - tolerance
    return allowed, new_tat, ahead, delay, retry_after


def blocked_debt(left: int, increment: int, tolerance: int) -> int:
    """Return the debt by which a block of `left` ticks more is decided: the same request passes at its end, not before.

    The decision tells `ahead` as the debt: so no token is left, whatever the request costs.

    >>> decide(tat=blocked_debt(left=7, increment=10, tolerance=30), now=0, increment=10, burst=30, tolerance=30)
    (False, 37, 37, 7, 7)
    """
    return left + max(0, tolerance - increment)


def refundable(increment: int, elapsed: int) -> int:
    """Return how much of a charge may be given back `elapsed` ticks after it was made.

    Tokens that have refilled since are not given again: without the charge, a full bucket would have spilt them.
    """
    return max(0, increment - max(0, elapsed))
